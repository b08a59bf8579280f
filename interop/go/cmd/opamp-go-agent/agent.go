package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/open-telemetry/opamp-go/client"
	"github.com/open-telemetry/opamp-go/client/types"
	pb "github.com/open-telemetry/opamp-go/protobufs"
	"google.golang.org/protobuf/proto"

	"interop/internal/peer"
)

// refusedText makes the agent refuse a config file or an endpoint it is in.
const refusedText = "invalid"

// agent is the application around opamp-go's client.
type agent struct {
	client  client.OpAMPClient
	events  *peer.Events
	uid     string
	started time.Time

	mu   sync.Mutex
	name string
	// attributes are non-identifying ones beside those it always has.
	attributes map[string]string
	// taken is the hash of the last configuration offer.
	taken     []byte
	effective *pb.AgentConfigMap
}

func newAgent(opamp client.OpAMPClient, events *peer.Events, uid, name string) *agent {
	return &agent{
		client:     opamp,
		events:     events,
		uid:        uid,
		started:    time.Now(),
		name:       name,
		attributes: map[string]string{},
		effective: &pb.AgentConfigMap{ConfigMap: map[string]*pb.AgentConfigFile{
			"local.yaml": {Body: []byte("origin: local\n"), ContentType: "text/yaml"},
		}},
	}
}

// prepare sets everything that goes into the first report.
func (a *agent) prepare(capabilities pb.AgentCapabilities, custom []string, requestUID bool) error {
	if err := a.client.SetAgentDescription(a.description()); err != nil {
		return err
	}
	if err := a.setHealth(true, "", ""); err != nil {
		return err
	}
	// opamp-go refuses ReportsHealth before there is a health.
	if err := a.client.SetCapabilities(&capabilities); err != nil {
		return err
	}
	if len(custom) > 0 {
		if err := a.client.SetCustomCapabilities(&pb.CustomCapabilities{Capabilities: custom}); err != nil {
			return err
		}
	}
	if requestUID {
		a.client.SetFlags(pb.AgentToServerFlags_AgentToServerFlags_RequestInstanceUid)
	}
	return nil
}

func (a *agent) description() *pb.AgentDescription {
	a.mu.Lock()
	defer a.mu.Unlock()
	attribute := func(key, value string) *pb.KeyValue {
		return &pb.KeyValue{Key: key, Value: &pb.AnyValue{Value: &pb.AnyValue_StringValue{StringValue: value}}}
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	nonIdentifying := []*pb.KeyValue{
		attribute("os.type", runtime.GOOS),
		attribute("host.name", host),
	}
	for key, value := range a.attributes {
		nonIdentifying = append(nonIdentifying, attribute(key, value))
	}
	return &pb.AgentDescription{
		IdentifyingAttributes: []*pb.KeyValue{
			attribute("service.name", a.name),
			attribute("service.instance.id", a.uid),
			attribute("service.version", "1.0.0"),
		},
		NonIdentifyingAttributes: nonIdentifying,
	}
}

func (a *agent) setHealth(healthy bool, status, lastError string) error {
	return a.client.SetHealth(&pb.ComponentHealth{
		Healthy:            healthy,
		StartTimeUnixNano:  uint64(a.started.UnixNano()),
		Status:             status,
		StatusTimeUnixNano: uint64(time.Now().UnixNano()),
		LastError:          lastError,
	})
}

func (a *agent) callbacks() types.Callbacks {
	return types.Callbacks{
		OnConnect: func(context.Context) { a.events.Emit("connected", nil) },
		OnConnectFailed: func(_ context.Context, err error) {
			a.events.Emit("connect_failed", peer.Fields{"error": err.Error()})
		},
		OnError:   a.onError,
		OnMessage: a.onMessage,
		OnCommand: func(_ context.Context, command *pb.ServerToAgentCommand) error {
			a.events.Emit("command", peer.Fields{"type": command.GetType().String()})
			return nil
		},
		OnOpampConnectionSettings: a.onSettings,
		GetEffectiveConfig: func(context.Context) (*pb.EffectiveConfig, error) {
			a.events.Emit("effective_config_read", nil)
			a.mu.Lock()
			defer a.mu.Unlock()
			return &pb.EffectiveConfig{ConfigMap: proto.Clone(a.effective).(*pb.AgentConfigMap)}, nil
		},
	}
}

func (a *agent) onError(_ context.Context, response *pb.ServerErrorResponse) {
	fields := peer.Fields{"type": response.GetType().String(), "error_message": response.GetErrorMessage()}
	if retry := response.GetRetryInfo(); retry != nil {
		fields["retry_after_nanoseconds"] = retry.GetRetryAfterNanoseconds()
	}
	a.events.Emit("error_response", fields)
}

func (a *agent) onMessage(ctx context.Context, m *types.MessageData) {
	a.events.Emit("message", peer.Fields{"fields": present(m)})
	if id := m.AgentIdentification; id != nil {
		a.events.Emit("instance_uid", peer.Fields{"uid": peer.UID(id.GetNewInstanceUid())})
	}
	if custom := m.CustomCapabilities; custom != nil {
		a.events.Emit("custom_capabilities", peer.Fields{"capabilities": custom.GetCapabilities()})
	}
	if custom := m.CustomMessage; custom != nil {
		a.events.Emit("custom_message", peer.Fields{
			"capability": custom.GetCapability(),
			"type":       custom.GetType(),
			"data":       base64.StdEncoding.EncodeToString(custom.GetData()),
		})
	}
	if m.RemoteConfig != nil {
		a.onRemoteConfig(ctx, m.RemoteConfig)
	}
}

// present names the parts of a message that opamp-go passes on.
func present(m *types.MessageData) []string {
	fields := []string{}
	for _, part := range []struct {
		name string
		set  bool
	}{
		{"remote_config", m.RemoteConfig != nil},
		{"connection_settings", m.OfferedConnectionsSettingsHash != nil},
		{"packages_available", m.PackagesAvailable != nil},
		{"agent_identification", m.AgentIdentification != nil},
		{"custom_capabilities", m.CustomCapabilities != nil},
		{"custom_message", m.CustomMessage != nil},
	} {
		if part.set {
			fields = append(fields, part.name)
		}
	}
	return fields
}

func (a *agent) onRemoteConfig(ctx context.Context, offer *pb.AgentRemoteConfig) {
	a.events.Emit("remote_config", peer.Fields{
		"hash": hex.EncodeToString(offer.GetConfigHash()),
		"msg":  peer.JSON(offer),
	})
	a.mu.Lock()
	known := len(offer.GetConfigHash()) > 0 && bytes.Equal(a.taken, offer.GetConfigHash())
	a.taken = offer.GetConfigHash()
	a.mu.Unlock()
	if known {
		return
	}
	a.report(offer, pb.RemoteConfigStatuses_RemoteConfigStatuses_APPLYING, "")
	if err := check(offer.GetConfig()); err != nil {
		a.report(offer, pb.RemoteConfigStatuses_RemoteConfigStatuses_FAILED, err.Error())
		return
	}
	a.mu.Lock()
	a.effective = proto.Clone(offer.GetConfig()).(*pb.AgentConfigMap)
	a.mu.Unlock()
	a.report(offer, pb.RemoteConfigStatuses_RemoteConfigStatuses_APPLIED, "")
	if err := a.client.UpdateEffectiveConfig(ctx); err != nil {
		a.events.Emit("report_error", peer.Fields{"error": err.Error()})
	}
}

func check(config *pb.AgentConfigMap) error {
	for name, file := range config.GetConfigMap() {
		if bytes.Contains(file.GetBody(), []byte(refusedText)) {
			return fmt.Errorf("config refused: file %q says %q", name, refusedText)
		}
	}
	return nil
}

func (a *agent) report(offer *pb.AgentRemoteConfig, status pb.RemoteConfigStatuses, message string) {
	err := a.client.SetRemoteConfigStatus(&pb.RemoteConfigStatus{
		LastRemoteConfigHash: offer.GetConfigHash(),
		Status:               status,
		ErrorMessage:         message,
	})
	if err != nil {
		a.events.Emit("report_error", peer.Fields{"error": err.Error()})
		return
	}
	a.events.Emit("remote_config_status", peer.Fields{"status": status.String(), "error_message": message})
}

// onSettings accepts an offer without moving to it. opamp-go applies the
// heartbeat interval itself and reports the outcome.
func (a *agent) onSettings(_ context.Context, settings *pb.OpAMPConnectionSettings) error {
	a.events.Emit("opamp_settings", peer.Fields{"msg": peer.JSON(settings)})
	if strings.Contains(settings.GetDestinationEndpoint(), refusedText) {
		return errors.New("settings refused: the endpoint says \"" + refusedText + "\"")
	}
	return nil
}
