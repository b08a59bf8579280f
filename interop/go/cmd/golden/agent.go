package main

import pb "github.com/open-telemetry/opamp-go/protobufs"

// agentVectors are messages an agent sends.
func agentVectors() []vector {
	return []vector{
		{"agent-full-report", "First full report of an agent with every status sub-message.", fullReport()},
		{"agent-every-field", "All fifteen fields of AgentToServer at once; no real agent would send this.", everyField()},
		{"agent-heartbeat", "Heartbeat: instance_uid, sequence_num and capabilities, nothing else.", &pb.AgentToServer{
			InstanceUid: agentUID, SequenceNum: 300, Capabilities: 0x3c07,
		}},
		{"agent-disconnect", "Last message before an orderly close; agent_disconnect is a message without fields.", &pb.AgentToServer{
			InstanceUid: agentUID, SequenceNum: 16384, Capabilities: 0x3c07, AgentDisconnect: &pb.AgentDisconnect{},
		}},
		{"agent-request-uid", "First message that asks for an instance_uid by flag.", &pb.AgentToServer{
			InstanceUid: agentUID, Capabilities: 1, AgentDescription: description(),
			Flags: uint64(pb.AgentToServerFlags_AgentToServerFlags_RequestInstanceUid),
		}},
		{"agent-config-unset", "Remote config status before any config came: UNSET without a hash, a sub-message of length 0.", &pb.AgentToServer{
			InstanceUid: agentUID, SequenceNum: 1, Capabilities: 0x1007, RemoteConfigStatus: &pb.RemoteConfigStatus{},
		}},
		{"agent-config-applying", "Remote config status APPLYING.", &pb.AgentToServer{
			InstanceUid: agentUID, SequenceNum: 2, Capabilities: 0x1007,
			RemoteConfigStatus: &pb.RemoteConfigStatus{
				LastRemoteConfigHash: hash("config 2"),
				Status:               pb.RemoteConfigStatuses_RemoteConfigStatuses_APPLYING,
			},
		}},
		{"agent-config-failed", "Remote config status FAILED with a message, and the effective config still in use.", &pb.AgentToServer{
			InstanceUid: agentUID, SequenceNum: 3, Capabilities: 0x1007,
			RemoteConfigStatus: &pb.RemoteConfigStatus{
				LastRemoteConfigHash: hash("config 2"),
				Status:               pb.RemoteConfigStatuses_RemoteConfigStatuses_FAILED,
				ErrorMessage:         "config refused: line 3: unknown receiver \"oltp\"",
			},
			EffectiveConfig: effectiveConfig(),
		}},
		{"agent-settings-applying", "Connection settings status APPLYING.", &pb.AgentToServer{
			InstanceUid: agentUID, SequenceNum: 4, Capabilities: 0x8101,
			ConnectionSettingsStatus: &pb.ConnectionSettingsStatus{
				LastConnectionSettingsHash: hash("settings 2"),
				Status:                     pb.ConnectionSettingsStatuses_ConnectionSettingsStatuses_APPLYING,
			},
		}},
		{"agent-settings-failed", "Connection settings status FAILED with a message.", &pb.AgentToServer{
			InstanceUid: agentUID, SequenceNum: 5, Capabilities: 0x8101,
			ConnectionSettingsStatus: &pb.ConnectionSettingsStatus{
				LastConnectionSettingsHash: hash("settings 2"),
				Status:                     pb.ConnectionSettingsStatuses_ConnectionSettingsStatuses_FAILED,
				ErrorMessage:               "no answer from wss://new.example/v1/opamp within 30 s",
			},
		}},
		{"agent-csr", "Request for a client certificate with a PKCS#10 request in PEM.", &pb.AgentToServer{
			InstanceUid: agentUID, SequenceNum: 6, Capabilities: 0x101,
			ConnectionSettingsRequest: certificateRequest(),
		}},
		{"agent-packages", "Package statuses: every status value, download details, hashes and an error.", &pb.AgentToServer{
			InstanceUid: agentUID, SequenceNum: 7, Capabilities: 0x19, PackageStatuses: packageStatuses(),
		}},
		{"agent-components", "Available components, nested three levels, with metadata.", &pb.AgentToServer{
			InstanceUid: agentUID, SequenceNum: 8, Capabilities: 0x4001, AvailableComponents: components(),
		}},
		{"agent-custom", "A custom message with binary data and the capabilities behind it.", &pb.AgentToServer{
			InstanceUid: agentUID, SequenceNum: 9, Capabilities: 1,
			CustomCapabilities: customCapabilities(),
			CustomMessage: &pb.CustomMessage{
				Capability: "com.example.discovery", Type: "found", Data: []byte{0, 1, 2, 0xfd, 0xfe, 0xff},
			},
		}},
	}
}

func fullReport() *pb.AgentToServer {
	return &pb.AgentToServer{
		InstanceUid:      agentUID,
		AgentDescription: description(),
		Capabilities:     0xffff,
		Health:           health(),
		EffectiveConfig:  effectiveConfig(),
		RemoteConfigStatus: &pb.RemoteConfigStatus{
			LastRemoteConfigHash: hash("config 1"),
			Status:               pb.RemoteConfigStatuses_RemoteConfigStatuses_APPLIED,
		},
		PackageStatuses:     packageStatuses(),
		CustomCapabilities:  customCapabilities(),
		AvailableComponents: components(),
		ConnectionSettingsStatus: &pb.ConnectionSettingsStatus{
			LastConnectionSettingsHash: hash("settings 1"),
			Status:                     pb.ConnectionSettingsStatuses_ConnectionSettingsStatuses_APPLIED,
		},
	}
}

func everyField() *pb.AgentToServer {
	m := fullReport()
	m.SequenceNum = 1
	m.Flags = uint64(pb.AgentToServerFlags_AgentToServerFlags_RequestInstanceUid)
	m.AgentDisconnect = &pb.AgentDisconnect{}
	m.ConnectionSettingsRequest = certificateRequest()
	m.CustomMessage = &pb.CustomMessage{Capability: "com.example.discovery", Type: "ask"}
	return m
}

func description() *pb.AgentDescription {
	return &pb.AgentDescription{
		IdentifyingAttributes: []*pb.KeyValue{
			attribute("service.name", text("com.example.collector")),
			attribute("service.instance.id", text("019b76da-a800-7c3e-8f21-5d6e7a8b9c0d")),
			attribute("service.version", text("1.2.3")),
		},
		NonIdentifyingAttributes: append([]*pb.KeyValue{
			attribute("os.type", text("linux")),
			attribute("host.name", text("node-1")),
		}, everyKind()...),
	}
}

// health is a tree of four levels.
func health() *pb.ComponentHealth {
	return &pb.ComponentHealth{
		StartTimeUnixNano:  startNano,
		LastError:          "1 of 2 pipelines down",
		Status:             "StatusDegraded",
		StatusTimeUnixNano: startNano + 1,
		ComponentHealthMap: map[string]*pb.ComponentHealth{
			"extensions": {Healthy: true, Status: "StatusOK"},
			"pipeline:traces": {
				LastError: "exporter down",
				ComponentHealthMap: map[string]*pb.ComponentHealth{
					"receiver:otlp": {Healthy: true, StartTimeUnixNano: startNano},
					"exporter:otlp": {
						Status: "StatusRecoverableError",
						ComponentHealthMap: map[string]*pb.ComponentHealth{
							"queue": {LastError: "full", StatusTimeUnixNano: startNano + 2},
						},
					},
				},
			},
		},
	}
}

func effectiveConfig() *pb.EffectiveConfig {
	return &pb.EffectiveConfig{ConfigMap: configMap(map[string]*pb.AgentConfigFile{
		"collector.yaml": yaml("receivers:\n  otlp:\n"),
		"extra.json":     {Body: []byte(`{"level":"debug"}`), ContentType: "application/json"},
	})}
}

func packageStatuses() *pb.PackageStatuses {
	return &pb.PackageStatuses{
		Packages: map[string]*pb.PackageStatus{
			"agent": {
				Name: "agent", AgentHasVersion: "1.2.3", AgentHasHash: hash("agent 1.2.3"),
				ServerOfferedVersion: "1.2.3", ServerOfferedHash: hash("agent 1.2.3"),
				Status: pb.PackageStatusEnum_PackageStatusEnum_Installed,
			},
			"waiting": {
				Name: "waiting", ServerOfferedVersion: "2", ServerOfferedHash: hash("waiting 2"),
				Status: pb.PackageStatusEnum_PackageStatusEnum_InstallPending,
			},
			"installing": {
				Name: "installing", ServerOfferedVersion: "3", ServerOfferedHash: hash("installing 3"),
				Status: pb.PackageStatusEnum_PackageStatusEnum_Installing,
			},
			"failed": {
				Name: "failed", AgentHasVersion: "3", AgentHasHash: hash("failed 3"),
				ServerOfferedVersion: "4", ServerOfferedHash: hash("failed 4"),
				Status:       pb.PackageStatusEnum_PackageStatusEnum_InstallFailed,
				ErrorMessage: "content hash differs",
			},
			"downloading": {
				Name: "downloading", ServerOfferedVersion: "5", ServerOfferedHash: hash("downloading 5"),
				Status: pb.PackageStatusEnum_PackageStatusEnum_Downloading,
				DownloadDetails: &pb.PackageDownloadDetails{
					DownloadPercent: 33.25, DownloadBytesPerSecond: 1048576.5,
				},
			},
		},
		ServerProvidedAllPackagesHash: hash("all packages"),
		ErrorMessage:                  "1 of 5 packages failed",
	}
}

func customCapabilities() *pb.CustomCapabilities {
	return &pb.CustomCapabilities{Capabilities: []string{"com.example.discovery", "com.example.pause/v2"}}
}

func certificateRequest() *pb.ConnectionSettingsRequest {
	return &pb.ConnectionSettingsRequest{Opamp: &pb.OpAMPConnectionSettingsRequest{
		CertificateRequest: &pb.CertificateRequest{Csr: csr()},
	}}
}

func components() *pb.AvailableComponents {
	return &pb.AvailableComponents{
		Components: map[string]*pb.ComponentDetails{
			"exporters": {SubComponentMap: map[string]*pb.ComponentDetails{
				"otlp": {Metadata: []*pb.KeyValue{attribute("version", text("0.130.0"))}},
			}},
			"receivers": {
				Metadata: []*pb.KeyValue{attribute("count", integer(1))},
				SubComponentMap: map[string]*pb.ComponentDetails{
					"otlp": {
						Metadata: everyKind(),
						SubComponentMap: map[string]*pb.ComponentDetails{
							"grpc": {Metadata: []*pb.KeyValue{attribute("port", integer(4317))}},
						},
					},
				},
			},
		},
		Hash: hash("components"),
	}
}
