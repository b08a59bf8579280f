package main

import (
	"math"

	pb "github.com/open-telemetry/opamp-go/protobufs"
	"google.golang.org/protobuf/encoding/protowire"
)

// valueVectors are values at the edges of what the wire can carry.
func valueVectors() []vector {
	return []vector{
		{"value-extreme-numbers", "Greatest and least numbers in every kind of number field; unknown capability and flag bits.", &pb.AgentToServer{
			InstanceUid:  agentUID,
			SequenceNum:  math.MaxUint64,
			Capabilities: math.MaxUint64,
			Flags:        1 << 63,
			Health: &pb.ComponentHealth{
				StartTimeUnixNano: math.MaxUint64, StatusTimeUnixNano: 1 << 63,
			},
			AgentDescription: &pb.AgentDescription{NonIdentifyingAttributes: []*pb.KeyValue{
				attribute("least", integer(math.MinInt64)),
				attribute("greatest", integer(math.MaxInt64)),
				attribute("minus one", integer(-1)),
				attribute("zero", integer(0)),
				attribute("largest double", double(math.MaxFloat64)),
				attribute("smallest double", double(math.SmallestNonzeroFloat64)),
				attribute("minus zero", double(math.Copysign(0, -1))),
			}},
		}},
		{"value-infinite", "Infinite doubles in attributes and download details.", &pb.AgentToServer{
			InstanceUid: agentUID,
			AgentDescription: &pb.AgentDescription{NonIdentifyingAttributes: []*pb.KeyValue{
				attribute("up", double(math.Inf(1))),
				attribute("down", double(math.Inf(-1))),
			}},
			PackageStatuses: &pb.PackageStatuses{Packages: map[string]*pb.PackageStatus{
				"p": {Name: "p", DownloadDetails: &pb.PackageDownloadDetails{
					DownloadPercent: math.Inf(1), DownloadBytesPerSecond: math.Inf(-1),
				}},
			}},
		}},
		{"value-not-a-number", "NaN in an attribute and in download details; a value not equal to itself.", &pb.AgentToServer{
			InstanceUid: agentUID,
			AgentDescription: &pb.AgentDescription{NonIdentifyingAttributes: []*pb.KeyValue{
				attribute("nan", double(math.NaN())),
			}},
			PackageStatuses: &pb.PackageStatuses{Packages: map[string]*pb.PackageStatus{
				"p": {Name: "p", DownloadDetails: &pb.PackageDownloadDetails{DownloadPercent: math.NaN()}},
			}},
		}},
		{"value-empty-attributes", "Attribute values that are set and empty: text, false, 0, 0.0, list, object, bytes.", &pb.AgentToServer{
			InstanceUid: agentUID,
			AgentDescription: &pb.AgentDescription{
				IdentifyingAttributes: []*pb.KeyValue{
					attribute("", text("")),
					attribute("flag", boolean(false)),
					attribute("count", integer(0)),
					attribute("ratio", double(0)),
					attribute("list", array()),
					attribute("object", list()),
					attribute("bytes", binary()),
					attribute("list of empties", array(&pb.AnyValue{}, text(""), list(attribute("", nil)))),
				},
			},
		}},
		{"value-empty-map-entries", "Map entries with empty keys and empty values, in maps of every value kind.", &pb.ServerToAgent{
			InstanceUid: agentUID,
			RemoteConfig: &pb.AgentRemoteConfig{Config: configMap(map[string]*pb.AgentConfigFile{
				"":      {},
				"empty": {},
				"typed": {ContentType: "text/plain"},
			})},
			ConnectionSettings: &pb.ConnectionSettingsOffers{OtherConnections: map[string]*pb.OtherConnectionSettings{
				"": {OtherSettings: map[string]string{"": "", "empty value": "", "full": "value"}},
			}},
			PackagesAvailable: &pb.PackagesAvailable{Packages: map[string]*pb.PackageAvailable{"": {}}},
		}},
		{"value-empty-sub-messages", "Every sub-message of AgentToServer present and empty.", &pb.AgentToServer{
			InstanceUid:               agentUID,
			AgentDescription:          &pb.AgentDescription{},
			Health:                    &pb.ComponentHealth{},
			EffectiveConfig:           &pb.EffectiveConfig{},
			RemoteConfigStatus:        &pb.RemoteConfigStatus{},
			PackageStatuses:           &pb.PackageStatuses{},
			AgentDisconnect:           &pb.AgentDisconnect{},
			ConnectionSettingsRequest: &pb.ConnectionSettingsRequest{},
			CustomCapabilities:        &pb.CustomCapabilities{},
			CustomMessage:             &pb.CustomMessage{},
			AvailableComponents:       &pb.AvailableComponents{},
			ConnectionSettingsStatus:  &pb.ConnectionSettingsStatus{},
		}},
		{"value-unknown-enums", "Enum values of a later protocol version, negative ones included.", &pb.AgentToServer{
			InstanceUid:              agentUID,
			RemoteConfigStatus:       &pb.RemoteConfigStatus{LastRemoteConfigHash: hash("config 1"), Status: 99},
			ConnectionSettingsStatus: &pb.ConnectionSettingsStatus{Status: -1},
			PackageStatuses: &pb.PackageStatuses{Packages: map[string]*pb.PackageStatus{
				"p": {Name: "p", Status: math.MaxInt32},
			}},
		}},
		{"value-unknown-fields", "Fields of a later protocol version, of every wire type; the JSON form leaves them out.", withUnknownFields()},
	}
}

func withUnknownFields() *pb.AgentToServer {
	var unknown []byte
	unknown = protowire.AppendTag(unknown, 1000, protowire.VarintType)
	unknown = protowire.AppendVarint(unknown, 7)
	unknown = protowire.AppendTag(unknown, 1001, protowire.BytesType)
	unknown = protowire.AppendString(unknown, "from the future")
	unknown = protowire.AppendTag(unknown, 1002, protowire.Fixed32Type)
	unknown = protowire.AppendFixed32(unknown, 32)
	unknown = protowire.AppendTag(unknown, 1003, protowire.Fixed64Type)
	unknown = protowire.AppendFixed64(unknown, 64)

	m := &pb.AgentToServer{
		InstanceUid:     agentUID,
		SequenceNum:     1,
		Capabilities:    1,
		EffectiveConfig: effectiveConfig(),
	}
	m.ProtoReflect().SetUnknown(unknown)
	m.EffectiveConfig.ProtoReflect().SetUnknown(unknown)
	return m
}
