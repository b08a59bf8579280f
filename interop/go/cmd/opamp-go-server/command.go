package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"
	pb "github.com/open-telemetry/opamp-go/protobufs"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"interop/internal/peer"
)

// goingAway is the Close code of a server that stops.
const goingAway = 1001

// command is one line of stdin; which members count depends on Cmd.
type command struct {
	Cmd         string  `json:"cmd"`
	UID         string  `json:"uid"`
	NewUID      string  `json:"new_uid"`
	Name        string  `json:"name"`
	Body        string  `json:"body"`
	ContentType string  `json:"content_type"`
	Mode        string  `json:"mode"`
	RetryAfter  float64 `json:"retry_after_seconds"`
	How         string  `json:"how"`
	Code        uint16  `json:"code"`
	Endpoint    string  `json:"endpoint"`
	Heartbeat   uint64  `json:"heartbeat_interval_seconds"`
	Capability  string  `json:"capability"`
	Type        string  `json:"type"`
	Data        []byte  `json:"data"`
	// Message is a ServerToAgent in the JSON of protobuf.
	Message json.RawMessage `json:"message"`
}

func (f *fleet) execute(c command) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch c.Cmd {
	case "offer_config":
		return f.offerConfig(c)
	case "reply_mode":
		next, err := newMode(c)
		if err == nil {
			f.mode = next
		}
		return err
	case "state":
		f.logState()
		return nil
	}

	uid := f.current(c.UID)
	a, ok := f.agents[uid]
	if !ok {
		return fmt.Errorf("no such command, or unknown agent %q", c.UID)
	}
	switch c.Cmd {
	case "report_full_state":
		return a.deliver(&pb.ServerToAgent{Flags: reportFullState})
	case "restart_agent":
		return a.deliver(&pb.ServerToAgent{Command: &pb.ServerToAgentCommand{Type: pb.CommandType_CommandType_Restart}})
	case "send_custom":
		return a.deliver(&pb.ServerToAgent{CustomMessage: &pb.CustomMessage{
			Capability: c.Capability, Type: c.Type, Data: c.Data,
		}})
	case "offer_settings":
		return a.deliver(&pb.ServerToAgent{ConnectionSettings: settingsOffer(c)})
	case "send":
		message := &pb.ServerToAgent{}
		if err := protojson.Unmarshal(c.Message, message); err != nil {
			return err
		}
		return a.deliver(message)
	case "rename":
		return f.rename(uid, a, c.NewUID)
	case "forget":
		f.forget(uid)
		return nil
	case "close":
		return a.close(c)
	default:
		return fmt.Errorf("unknown command %q", c.Cmd)
	}
}

// deliver sends a message now over WebSocket, and with the next reply otherwise.
func (a *agent) deliver(m *pb.ServerToAgent) error {
	if a.conn == nil {
		a.queue = append(a.queue, m)
		return nil
	}
	m.InstanceUid = a.state.GetInstanceUid()
	return a.conn.Send(context.Background(), m)
}

func (f *fleet) offerConfig(c command) error {
	// Lengths keep the parts apart.
	sum := sha256.Sum256(fmt.Appendf(nil, "%d:%s %d:%s %d:%s",
		len(c.Name), c.Name, len(c.ContentType), c.ContentType, len(c.Body), c.Body))
	f.config = &pb.AgentRemoteConfig{
		Config: &pb.AgentConfigMap{ConfigMap: map[string]*pb.AgentConfigFile{
			c.Name: {Body: []byte(c.Body), ContentType: c.ContentType},
		}},
		ConfigHash: sum[:],
	}
	f.events.Emit("config", peer.Fields{"hash": hex.EncodeToString(sum[:])})
	var failed error
	for _, a := range f.agents {
		// Agents without a WebSocket get the offer with their next reply.
		if a.conn != nil && f.offersTo(a) {
			failed = errors.Join(failed, a.deliver(&pb.ServerToAgent{RemoteConfig: f.configOf(a)}))
		}
	}
	return failed
}

func settingsOffer(c command) *pb.ConnectionSettingsOffers {
	settings := &pb.OpAMPConnectionSettings{
		DestinationEndpoint: c.Endpoint, HeartbeatIntervalSeconds: c.Heartbeat,
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %s", c.Heartbeat, c.Endpoint))
	return &pb.ConnectionSettingsOffers{Hash: sum[:], Opamp: settings}
}

// assign answers a request for an instance uid.
func (f *fleet) assign(uid string) *pb.AgentIdentification {
	next := uuid.Must(uuid.NewV7())
	f.move(uid, next.String())
	return &pb.AgentIdentification{NewInstanceUid: next[:]}
}

func (f *fleet) rename(uid string, a *agent, newUID string) error {
	next, err := uuid.Parse(newUID)
	if err != nil {
		return err
	}
	if _, taken := f.agents[next.String()]; taken {
		return fmt.Errorf("uid %s is in use", next)
	}
	// The message is still addressed to the old uid.
	err = a.deliver(&pb.ServerToAgent{AgentIdentification: &pb.AgentIdentification{NewInstanceUid: next[:]}})
	if err == nil {
		f.move(uid, next.String())
	}
	return err
}

func (f *fleet) move(uid, next string) {
	f.agents[next] = f.agents[uid]
	delete(f.agents, uid)
	for former, present := range f.renamed {
		if present == uid {
			f.renamed[former] = next
		}
	}
	f.renamed[uid] = next
	f.events.Emit("renamed", peer.Fields{"uid": uid, "new_uid": next})
}

func (f *fleet) forget(uid string) {
	delete(f.agents, uid)
	for former, present := range f.renamed {
		if present == uid {
			delete(f.renamed, former)
		}
	}
}

func (a *agent) close(c command) error {
	if a.conn == nil {
		return errors.New("the agent has no WebSocket")
	}
	switch c.How {
	case "tcp":
		return a.conn.Disconnect()
	case "ws":
		s, ok := a.conn.Connection().(*socket)
		if !ok {
			return errors.New("the connection cannot send a Close frame")
		}
		if c.Code == 0 {
			c.Code = goingAway
		}
		return s.sendClose(c.Code)
	default:
		return fmt.Errorf("unknown way to close %q", c.How)
	}
}

func (f *fleet) logState() {
	agents := peer.Fields{}
	for uid, a := range f.agents {
		agents[uid] = peer.Fields{
			"transport": a.transport,
			"connected": a.connected,
			"seq":       a.state.GetSequenceNum(),
			"queued":    len(a.queue),
			"msg":       peer.JSON(proto.Clone(a.state)),
		}
	}
	f.events.Emit("state", peer.Fields{"agents": agents})
}
