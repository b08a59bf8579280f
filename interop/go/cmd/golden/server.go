package main

import pb "github.com/open-telemetry/opamp-go/protobufs"

// serverVectors are messages a server sends.
func serverVectors() []vector {
	return []vector{
		{"server-empty", "A ServerToAgent without any field: no bytes at all.", &pb.ServerToAgent{}},
		{"server-acknowledgement", "Bare acknowledgement: instance_uid only.", &pb.ServerToAgent{InstanceUid: agentUID}},
		{"server-first-reply", "First reply: capabilities and custom capabilities.", &pb.ServerToAgent{
			InstanceUid: agentUID, Capabilities: 0x7f, CustomCapabilities: customCapabilities(),
		}},
		{"server-bad-request", "Error of type BAD_REQUEST.", &pb.ServerToAgent{
			InstanceUid: agentUID,
			ErrorResponse: &pb.ServerErrorResponse{
				Type:         pb.ServerErrorResponseType_ServerErrorResponseType_BadRequest,
				ErrorMessage: "instance_uid has 15 bytes",
			},
		}},
		{"server-unavailable", "Error of type UNAVAILABLE with retry_info.", &pb.ServerToAgent{
			InstanceUid: agentUID,
			ErrorResponse: &pb.ServerErrorResponse{
				Type:         pb.ServerErrorResponseType_ServerErrorResponseType_Unavailable,
				ErrorMessage: "too many agents",
				Details: &pb.ServerErrorResponse_RetryInfo{
					RetryInfo: &pb.RetryInfo{RetryAfterNanoseconds: 90_000_000_000},
				},
			},
		}},
		{"server-unavailable-at-once", "Error of type UNAVAILABLE whose retry_info is present and empty.", &pb.ServerToAgent{
			InstanceUid: agentUID,
			ErrorResponse: &pb.ServerErrorResponse{
				Type:    pb.ServerErrorResponseType_ServerErrorResponseType_Unavailable,
				Details: &pb.ServerErrorResponse_RetryInfo{RetryInfo: &pb.RetryInfo{}},
			},
		}},
		{"server-remote-config", "Remote config of several files, one of them binary.", &pb.ServerToAgent{
			InstanceUid: agentUID,
			RemoteConfig: &pb.AgentRemoteConfig{
				Config: configMap(map[string]*pb.AgentConfigFile{
					"collector.yaml": yaml("receivers:\n  otlp:\n"),
					"größe.json":     {Body: []byte(`{"a":[1,2,3]}`), ContentType: "application/json"},
					"table.bin":      {Body: allBytes(), ContentType: "application/octet-stream"},
				}),
				ConfigHash: hash("config 1"),
			},
		}},
		{"server-remote-config-unnamed", "Remote config whose only file has an empty name.", &pb.ServerToAgent{
			InstanceUid: agentUID,
			RemoteConfig: &pb.AgentRemoteConfig{
				Config:     configMap(map[string]*pb.AgentConfigFile{"": yaml("service: {}\n")}),
				ConfigHash: hash("config 2"),
			},
		}},
		{"server-remote-config-cleared", "Remote config that is an empty map, with its hash.", &pb.ServerToAgent{
			InstanceUid:  agentUID,
			RemoteConfig: &pb.AgentRemoteConfig{Config: &pb.AgentConfigMap{}, ConfigHash: hash("config 3")},
		}},
		{"server-connection-settings", "Connection settings offers of every kind with TLS, proxy, headers and certificates.", &pb.ServerToAgent{
			InstanceUid: agentUID, ConnectionSettings: connectionSettings(),
		}},
		{"server-certificate", "Answer to a certificate request: a certificate without a private key.", &pb.ServerToAgent{
			InstanceUid: agentUID,
			ConnectionSettings: &pb.ConnectionSettingsOffers{
				Hash: hash("settings 3"),
				Opamp: &pb.OpAMPConnectionSettings{
					DestinationEndpoint:      "wss://opamp.example:4320/v1/opamp",
					Certificate:              &pb.TLSCertificate{Cert: []byte("signed certificate"), CaCert: []byte("ca certificate")},
					HeartbeatIntervalSeconds: 30,
				},
			},
		}},
		{"server-packages", "Packages available: a top-level package and two add-ons.", &pb.ServerToAgent{
			InstanceUid: agentUID, PackagesAvailable: packagesAvailable(),
		}},
		{"server-flags", "Both flags: ReportFullState and ReportAvailableComponents.", &pb.ServerToAgent{
			InstanceUid: agentUID, Flags: 3,
		}},
		{"server-identification", "A new instance_uid, in a message still addressed to the old one.", &pb.ServerToAgent{
			InstanceUid: agentUID, AgentIdentification: &pb.AgentIdentification{NewInstanceUid: otherUID},
		}},
		{"server-restart", "Restart command: type 0 makes the sub-message present and empty.", &pb.ServerToAgent{
			InstanceUid: agentUID,
			Command:     &pb.ServerToAgentCommand{Type: pb.CommandType_CommandType_Restart},
		}},
		{"server-custom", "A custom message with binary data.", &pb.ServerToAgent{
			InstanceUid: agentUID,
			CustomMessage: &pb.CustomMessage{
				Capability: "com.example.discovery", Type: "find", Data: []byte{0x0a, 0x00, 0xff},
			},
		}},
		{"server-every-field", "All eleven fields of ServerToAgent at once; no real server would send this.", &pb.ServerToAgent{
			InstanceUid:   agentUID,
			ErrorResponse: &pb.ServerErrorResponse{ErrorMessage: "not to be mixed"},
			RemoteConfig: &pb.AgentRemoteConfig{
				Config:     configMap(map[string]*pb.AgentConfigFile{"a": yaml("a: 1\n")}),
				ConfigHash: hash("config 4"),
			},
			ConnectionSettings:  connectionSettings(),
			PackagesAvailable:   packagesAvailable(),
			Flags:               1,
			Capabilities:        0x7f,
			AgentIdentification: &pb.AgentIdentification{NewInstanceUid: otherUID},
			Command:             &pb.ServerToAgentCommand{},
			CustomCapabilities:  customCapabilities(),
			CustomMessage:       &pb.CustomMessage{Capability: "com.example.discovery", Type: "find"},
		}},
	}
}

func allBytes() []byte {
	out := make([]byte, 256)
	for i := range out {
		out[i] = byte(i)
	}
	return out
}

// connectionSettings holds texts in place of certificates and keys: the wire
// carries any bytes there.
func connectionSettings() *pb.ConnectionSettingsOffers {
	certificate := func(name string) *pb.TLSCertificate {
		return &pb.TLSCertificate{
			Cert:       []byte(name + " certificate"),
			PrivateKey: []byte(name + " private key"),
			CaCert:     []byte(name + " ca certificate"),
		}
	}
	tls := &pb.TLSConnectionSettings{
		CaPemContents:            "ca certificates",
		IncludeSystemCaCertsPool: true,
		InsecureSkipVerify:       true,
		MinVersion:               "1.2",
		MaxVersion:               "1.3",
		CipherSuites:             []string{"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384"},
	}
	proxy := &pb.ProxyConnectionSettings{
		Url:            "http://proxy.example:3128",
		ConnectHeaders: headers("Proxy-Authorization", "Basic Z29sZGVu", "X-Empty", ""),
	}
	telemetry := func(kind string) *pb.TelemetryConnectionSettings {
		return &pb.TelemetryConnectionSettings{
			DestinationEndpoint: "https://otlp.example:4318/v1/" + kind,
			Headers:             headers("X-Tenant", "golden", "X-Tenant", "twice"),
			Certificate:         certificate(kind),
			Tls:                 tls,
			Proxy:               proxy,
		}
	}
	return &pb.ConnectionSettingsOffers{
		Hash: hash("settings 1"),
		Opamp: &pb.OpAMPConnectionSettings{
			DestinationEndpoint:      "wss://opamp.example:4320/v1/opamp",
			Headers:                  headers("Authorization", "Bearer golden"),
			Certificate:              certificate("opamp"),
			HeartbeatIntervalSeconds: 45,
			Tls:                      tls,
			Proxy:                    proxy,
		},
		OwnMetrics: telemetry("metrics"),
		OwnTraces:  telemetry("traces"),
		OwnLogs:    telemetry("logs"),
		OtherConnections: map[string]*pb.OtherConnectionSettings{
			"backend": {
				DestinationEndpoint: "https://backend.example",
				Headers:             headers("X-Api-Key", "golden"),
				Certificate:         certificate("backend"),
				OtherSettings:       map[string]string{"compression": "zstd", "retries": "5"},
				Tls:                 tls,
				Proxy:               proxy,
			},
			"database": {DestinationEndpoint: "postgres://db.example"},
		},
	}
}

func packagesAvailable() *pb.PackagesAvailable {
	return &pb.PackagesAvailable{
		Packages: map[string]*pb.PackageAvailable{
			"agent": {
				Type: pb.PackageType_PackageType_TopLevel, Version: "2.0.0",
				File: &pb.DownloadableFile{
					DownloadUrl: "https://packages.example/agent?version=2.0.0",
					ContentHash: hash("agent file"),
					Signature:   []byte("signature of the agent file"),
					Headers:     headers("Authorization", "Bearer golden"),
				},
				Hash: hash("agent 2.0.0"),
			},
			"rules": {
				Type: pb.PackageType_PackageType_Addon, Version: "2026-01-01",
				File: &pb.DownloadableFile{DownloadUrl: "https://packages.example/rules", ContentHash: hash("rules file")},
				Hash: hash("rules"),
			},
			"without-file": {Type: pb.PackageType_PackageType_Addon, Hash: hash("without file")},
		},
		AllPackagesHash: hash("all packages"),
	}
}
