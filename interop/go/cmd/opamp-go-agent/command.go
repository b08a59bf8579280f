package main

import (
	"fmt"

	pb "github.com/open-telemetry/opamp-go/protobufs"

	"interop/internal/peer"
)

// command is one line of stdin; which members count depends on Cmd.
type command struct {
	Cmd        string `json:"cmd"`
	Healthy    bool   `json:"healthy"`
	Status     string `json:"status"`
	LastError  string `json:"last_error"`
	Name       string `json:"name"`
	Capability string `json:"capability"`
	Type       string `json:"type"`
	Data       []byte `json:"data"`
}

func (a *agent) execute(c command) error {
	switch c.Cmd {
	case "set_health":
		return a.setHealth(c.Healthy, c.Status, c.LastError)
	case "set_description":
		a.mu.Lock()
		a.name = c.Name
		a.mu.Unlock()
		return a.client.SetAgentDescription(a.description())
	case "send_custom":
		return a.sendCustom(c)
	default:
		return fmt.Errorf("unknown command %q", c.Cmd)
	}
}

// sendCustom returns at once; the event tells when opamp-go took the message
// for sending, which is before it is written.
func (a *agent) sendCustom(c command) error {
	taken, err := a.client.SendCustomMessage(&pb.CustomMessage{
		Capability: c.Capability, Type: c.Type, Data: c.Data,
	})
	if err != nil {
		return err
	}
	go func() {
		<-taken
		a.events.Emit("custom_taken", peer.Fields{"capability": c.Capability, "type": c.Type})
	}()
	return nil
}
