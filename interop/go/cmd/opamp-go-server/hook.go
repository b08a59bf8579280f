package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	pb "github.com/open-telemetry/opamp-go/protobufs"
	"google.golang.org/protobuf/proto"

	"interop/internal/peer"
)

// hook does what a conformance tester asks for.
func (f *fleet) hook(h peer.Hook) (peer.Fields, error) {
	switch h.Name {
	case "offer_config":
		return nil, f.offerConfigTo(h)
	case "show_agent":
		return peer.Fields{"agent": f.show(h.InstanceUID)}, nil
	case "restart_agent":
		if !f.accepts(h.InstanceUID, acceptsRestart) {
			return nil, errors.New("the agent does not accept restarts")
		}
		return nil, f.execute(command{Cmd: "restart_agent", UID: h.InstanceUID})
	case "request_full_state":
		return nil, f.execute(command{Cmd: "report_full_state", UID: h.InstanceUID})
	case "send_custom_message":
		if !f.takesCustom(h.InstanceUID, h.Capability) {
			return nil, errors.New("the agent does not have this capability")
		}
		return nil, f.execute(command{
			Cmd: "send_custom", UID: h.InstanceUID, Capability: h.Capability, Type: h.Type, Data: h.Data,
		})
	case "disconnect":
		return nil, f.execute(command{Cmd: "close", UID: h.InstanceUID, How: "ws", Code: 1000})
	default:
		return nil, peer.ErrUnsupported
	}
}

// accepts tells whether the agent announces the capability.
func (f *fleet) accepts(uid string, capability uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	a, ok := f.agents[f.current(uid)]
	return ok && a.state.GetCapabilities()&capability != 0
}

// takesCustom tells whether the agent announces the custom capability.
func (f *fleet) takesCustom(uid, capability string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	a, ok := f.agents[f.current(uid)]
	return ok && slices.Contains(a.state.GetCustomCapabilities().GetCapabilities(), capability)
}

// offerConfigTo makes a configuration that of one agent.
func (f *fleet) offerConfigTo(h peer.Hook) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	a, ok := f.agents[f.current(h.InstanceUID)]
	if !ok {
		return fmt.Errorf("unknown agent %q", h.InstanceUID)
	}
	config := &pb.AgentConfigMap{ConfigMap: map[string]*pb.AgentConfigFile{}}
	sum := sha256.New()
	names := []string{}
	for name, file := range h.Files {
		names = append(names, name)
		config.ConfigMap[name] = &pb.AgentConfigFile{Body: file.Body, ContentType: file.ContentType}
	}
	slices.Sort(names)
	for _, name := range names {
		file := h.Files[name]
		fmt.Fprintf(sum, "%d:%s %d:%s %d:%s", len(name), name,
			len(file.ContentType), file.ContentType, len(file.Body), file.Body)
	}
	a.config = &pb.AgentRemoteConfig{Config: config, ConfigHash: sum.Sum(nil)}
	if a.conn != nil && f.offersTo(a) {
		return a.deliver(&pb.ServerToAgent{RemoteConfig: proto.Clone(a.config).(*pb.AgentRemoteConfig)})
	}
	return nil
}

// show is what the tester may see of an agent, in the protocol's own JSON.
func (f *fleet) show(uid string) any {
	f.mu.Lock()
	defer f.mu.Unlock()
	a, ok := f.agents[f.current(uid)]
	if !ok {
		return nil
	}
	shown := peer.Fields{
		"connected":    a.connected,
		"transport":    a.transport,
		"sequence_num": a.state.GetSequenceNum(),
	}
	if health := a.state.GetHealth(); health != nil {
		shown["health"] = healthOf(health)
	}
	if description := a.state.GetAgentDescription(); description != nil {
		shown["agent_description"] = peer.Fields{
			"identifying_attributes":     texts(description.GetIdentifyingAttributes()),
			"non_identifying_attributes": texts(description.GetNonIdentifyingAttributes()),
		}
	}
	if config := a.state.GetEffectiveConfig(); config != nil {
		files := peer.Fields{}
		for name, file := range config.GetConfigMap().GetConfigMap() {
			files[name] = peer.Fields{"body": string(file.GetBody()), "content_type": file.GetContentType()}
		}
		shown["effective_config"] = files
	}
	if status := a.state.GetRemoteConfigStatus(); status != nil {
		shown["remote_config_status"] = peer.Fields{
			"last_remote_config_hash": hex.EncodeToString(status.GetLastRemoteConfigHash()),
			"status":                  strings.TrimPrefix(status.GetStatus().String(), "RemoteConfigStatuses_"),
			"error_message":           status.GetErrorMessage(),
		}
	}
	return shown
}

func healthOf(health *pb.ComponentHealth) peer.Fields {
	components := peer.Fields{}
	for name, component := range health.GetComponentHealthMap() {
		components[name] = healthOf(component)
	}
	return peer.Fields{
		"healthy": health.GetHealthy(), "status": health.GetStatus(), "last_error": health.GetLastError(),
		"component_health_map": components,
	}
}

func texts(attributes []*pb.KeyValue) peer.Fields {
	fields := peer.Fields{}
	for _, attribute := range attributes {
		fields[attribute.GetKey()] = attribute.GetValue().GetStringValue()
	}
	return fields
}
