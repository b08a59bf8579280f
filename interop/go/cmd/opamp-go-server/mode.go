package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	pb "github.com/open-telemetry/opamp-go/protobufs"
	"github.com/open-telemetry/opamp-go/server/types"

	"interop/internal/peer"
)

const (
	modeNormal      = "normal"
	modeSilent      = "silent"
	modeUnavailable = "unavailable"
	modeBadRequest  = "bad_request"
	modePushRandom  = "push_random"
)

// mode is how the server treats every report.
type mode struct {
	name       string
	retryAfter time.Duration
}

func newMode(c command) (mode, error) {
	switch c.Mode {
	case modeNormal, modeSilent, modeUnavailable, modeBadRequest, modePushRandom:
		return mode{name: c.Mode, retryAfter: time.Duration(c.RetryAfter * float64(time.Second))}, nil
	default:
		return mode{}, fmt.Errorf("unknown mode %q", c.Mode)
	}
}

// refusal is the error reply of the modes that refuse reports.
func (m mode) refusal(uid []byte) (reply *pb.ServerToAgent, refused bool) {
	response := &pb.ServerErrorResponse{ErrorMessage: "refused by mode " + m.name}
	switch m.name {
	case modeUnavailable:
		response.Type = pb.ServerErrorResponseType_ServerErrorResponseType_Unavailable
		if m.retryAfter > 0 {
			response.Details = &pb.ServerErrorResponse_RetryInfo{
				RetryInfo: &pb.RetryInfo{RetryAfterNanoseconds: uint64(m.retryAfter)},
			}
		}
	case modeBadRequest:
		response.Type = pb.ServerErrorResponseType_ServerErrorResponseType_BadRequest
	default:
		return nil, false
	}
	return &pb.ServerToAgent{InstanceUid: uid, ErrorResponse: response}, true
}

// pushRandom sends one to three messages that no agent has a reason to answer,
// ahead of the reply.
func (f *fleet) pushRandom(ctx context.Context, conn types.Connection, uid []byte) {
	pushes := []*pb.ServerToAgent{
		{InstanceUid: uid},
		{Capabilities: f.capabilities},
		{InstanceUid: uid, Capabilities: f.capabilities, RemoteConfig: f.config},
		{InstanceUid: uid, CustomMessage: &pb.CustomMessage{Capability: "com.example.unknown", Type: "noise"}},
	}
	for range 1 + rand.IntN(3) {
		if err := conn.Send(ctx, pushes[rand.IntN(len(pushes))]); err != nil {
			f.events.Emit("send_error", peer.Fields{"uid": peer.UID(uid), "error": err.Error()})
			return
		}
	}
}
