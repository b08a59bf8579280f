package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"net/http"
	"sync"

	pb "github.com/open-telemetry/opamp-go/protobufs"
	"github.com/open-telemetry/opamp-go/server/types"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"interop/internal/peer"
)

const (
	webSocket = "websocket"
	plainHTTP = "http"

	defaultCapabilities = pb.ServerCapabilities_ServerCapabilities_AcceptsStatus |
		pb.ServerCapabilities_ServerCapabilities_OffersRemoteConfig |
		pb.ServerCapabilities_ServerCapabilities_AcceptsEffectiveConfig |
		pb.ServerCapabilities_ServerCapabilities_OffersConnectionSettings

	reportFullState = uint64(pb.ServerToAgentFlags_ServerToAgentFlags_ReportFullState)
	requestUID      = uint64(pb.AgentToServerFlags_AgentToServerFlags_RequestInstanceUid)
	acceptsRestart  = uint64(pb.AgentCapabilities_AgentCapabilities_AcceptsRestartCommand)
	acceptsConfig   = uint64(pb.AgentCapabilities_AgentCapabilities_AcceptsRemoteConfig)
)

// fleet is what the server remembers.
type fleet struct {
	events       *peer.Events
	capabilities uint64

	mu     sync.Mutex
	agents map[string]*agent
	// renamed leads from an agent's former uid to its present one, for the
	// messages that were under way when it was renamed.
	renamed map[string]string
	config  *pb.AgentRemoteConfig
	mode    mode
}

// agent is the last known state of one agent.
type agent struct {
	transport string
	connected bool
	// conn is set while the agent is connected over WebSocket.
	conn types.Connection
	// queue waits for the next reply, one message for each reply.
	queue []*pb.ServerToAgent
	// config is for this agent alone; without it the fleet's counts.
	config *pb.AgentRemoteConfig
	// state has the latest value of every part reported so far.
	state *pb.AgentToServer
}

func newFleet(events *peer.Events, capabilities uint64) *fleet {
	return &fleet{
		capabilities: capabilities,
		events:       events,
		agents:       map[string]*agent{},
		renamed:      map[string]string{},
		mode:         mode{name: modeNormal},
	}
}

// onConnecting runs for each WebSocket and for each plain HTTP request.
func (f *fleet) onConnecting(request *http.Request) types.ConnectionResponse {
	transport := webSocket
	if request.Header.Get("Content-Type") == "application/x-protobuf" {
		transport = plainHTTP
	}
	headers := map[string]string{}
	for _, name := range []string{"OpAMP-Instance-UID", "Content-Type", "Content-Encoding", "User-Agent", "Sec-WebSocket-Extensions"} {
		if value := request.Header.Get(name); value != "" {
			headers[name] = value
		}
	}
	callbacks := types.ConnectionCallbacks{
		OnMessage: func(ctx context.Context, conn types.Connection, m *pb.AgentToServer) *pb.ServerToAgent {
			f.logMessage(transport, headers, m)
			if transport == plainHTTP {
				conn = nil
			}
			return f.onMessage(ctx, transport, conn, m)
		},
	}
	if transport == webSocket {
		callbacks.OnConnected = func(context.Context, types.Connection) {
			f.events.Emit("connected", peer.Fields{"headers": headers})
		}
		callbacks.OnConnectionClose = f.onClose
		callbacks.OnReadMessageError = func(_ types.Connection, _ int, content []byte, err error) {
			f.events.Emit("read_error", peer.Fields{"error": err.Error(), "bytes": hex.EncodeToString(content)})
		}
	}
	return types.ConnectionResponse{Accept: true, ConnectionCallbacks: callbacks}
}

func (f *fleet) logMessage(transport string, headers map[string]string, m *pb.AgentToServer) {
	f.events.Emit("agent_to_server", peer.Fields{
		"transport":    transport,
		"headers":      headers,
		"uid":          peer.UID(m.GetInstanceUid()),
		"seq":          m.GetSequenceNum(),
		"capabilities": m.GetCapabilities(),
		"flags":        m.GetFlags(),
		"fields":       subMessages(m),
		"msg":          peer.JSON(m),
	})
}

// subMessages names the sub-messages that are present, in the order of the schema.
func subMessages(m *pb.AgentToServer) []string {
	names := []string{}
	fields := m.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		if field := fields.Get(i); field.Message() != nil && m.ProtoReflect().Has(field) {
			names = append(names, string(field.Name()))
		}
	}
	return names
}

func (f *fleet) onClose(conn types.Connection) {
	f.mu.Lock()
	defer f.mu.Unlock()
	uids := []string{}
	for uid, a := range f.agents {
		if a.conn == conn {
			a.conn, a.connected = nil, false
			uids = append(uids, uid)
		}
	}
	f.events.Emit("closed", peer.Fields{"uids": uids})
}

// onMessage takes a report in and composes the reply; nil means none.
func (f *fleet) onMessage(ctx context.Context, transport string, conn types.Connection, m *pb.AgentToServer) *pb.ServerToAgent {
	f.mu.Lock()
	defer f.mu.Unlock()

	uid := f.current(peer.UID(m.GetInstanceUid()))
	a, known := f.agents[uid]
	if !known {
		a = &agent{state: &pb.AgentToServer{}}
		f.agents[uid] = a
	}
	gap := known && m.GetSequenceNum() != a.state.GetSequenceNum()+1
	if gap {
		f.events.Emit("sequence_gap", peer.Fields{
			"uid": uid, "expected": a.state.GetSequenceNum() + 1, "got": m.GetSequenceNum(),
		})
	}
	a.transport, a.conn, a.connected = transport, conn, m.GetAgentDisconnect() == nil
	a.state.InstanceUid, a.state.SequenceNum = m.GetInstanceUid(), m.GetSequenceNum()

	if reply, refused := f.mode.refusal(m.GetInstanceUid()); refused {
		return reply
	}
	a.fold(m)
	if f.mode.name == modeSilent {
		return nil
	}

	reply := &pb.ServerToAgent{InstanceUid: m.GetInstanceUid()}
	if len(a.queue) > 0 {
		proto.Merge(reply, a.queue[0])
		a.queue = a.queue[1:]
		if reply.GetCommand() != nil {
			// The rest of a message with a command is ignored.
			return reply
		}
	}
	reply.Capabilities = f.capabilities
	missed := gap && m.GetAgentDescription() == nil
	if (missed || a.state.GetAgentDescription() == nil) && a.connected {
		reply.Flags |= reportFullState
	}
	if f.offersTo(a) {
		reply.RemoteConfig = f.configOf(a)
	}
	if m.GetFlags()&requestUID != 0 && reply.GetAgentIdentification() == nil {
		reply.AgentIdentification = f.assign(uid)
	}
	if f.mode.name == modePushRandom && conn != nil {
		f.pushRandom(ctx, conn, m.GetInstanceUid())
	}
	return reply
}

// current is the uid an agent has now, given one it has or had.
func (f *fleet) current(uid string) string {
	if next, ok := f.renamed[uid]; ok {
		return next
	}
	return uid
}

// fold keeps the newest value of each part. The rest, such as a heartbeat's
// missing sub-messages, stays as it was.
func (a *agent) fold(m *pb.AgentToServer) {
	a.state.Capabilities, a.state.Flags = m.GetCapabilities(), m.GetFlags()
	m.ProtoReflect().Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		if field.Message() != nil {
			a.state.ProtoReflect().Set(field, value)
		}
		return true
	})
}

// offersTo tells whether the agent takes configs and has reported another one.
func (f *fleet) offersTo(a *agent) bool {
	config := f.configOf(a)
	return config != nil && a.connected && a.state.GetCapabilities()&acceptsConfig != 0 &&
		!bytes.Equal(a.state.GetRemoteConfigStatus().GetLastRemoteConfigHash(), config.GetConfigHash())
}

// configOf is the configuration an agent is to have.
func (f *fleet) configOf(a *agent) *pb.AgentRemoteConfig {
	if a.config != nil {
		return a.config
	}
	return f.config
}
