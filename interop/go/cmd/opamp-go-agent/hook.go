package main

import (
	"context"
	"maps"

	pb "github.com/open-telemetry/opamp-go/protobufs"

	"interop/internal/peer"
)

// hook does what a conformance tester asks for.
func (a *agent) hook(h peer.Hook) (peer.Fields, error) {
	switch h.Name {
	case "set_health":
		return nil, a.setHealth(h.Healthy, "", h.LastError)
	case "set_description":
		a.mu.Lock()
		maps.Copy(a.attributes, h.Attributes)
		a.mu.Unlock()
		return nil, a.client.SetAgentDescription(a.description())
	case "set_effective_config":
		a.mu.Lock()
		a.effective = &pb.AgentConfigMap{ConfigMap: map[string]*pb.AgentConfigFile{
			"local.yaml": {Body: []byte(h.Body), ContentType: "text/yaml"},
		}}
		a.mu.Unlock()
		return nil, a.client.UpdateEffectiveConfig(context.Background())
	case "send_custom_message":
		return nil, a.sendCustom(command{Capability: h.Capability, Type: h.Type, Data: h.Data})
	default:
		return nil, peer.ErrUnsupported
	}
}
