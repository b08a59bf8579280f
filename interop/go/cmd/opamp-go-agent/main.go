// Command opamp-go-agent is an OpAMP agent built on opamp-go's client, to be
// driven by a test: events go to stdout, commands come from stdin. The README
// of this module is the contract.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/open-telemetry/opamp-go/client"
	"github.com/open-telemetry/opamp-go/client/types"
	pb "github.com/open-telemetry/opamp-go/protobufs"

	"interop/internal/peer"
)

const (
	defaultCapabilities = pb.AgentCapabilities_AgentCapabilities_ReportsStatus |
		pb.AgentCapabilities_AgentCapabilities_AcceptsRemoteConfig |
		pb.AgentCapabilities_AgentCapabilities_ReportsRemoteConfig |
		pb.AgentCapabilities_AgentCapabilities_ReportsEffectiveConfig |
		pb.AgentCapabilities_AgentCapabilities_ReportsHealth |
		pb.AgentCapabilities_AgentCapabilities_ReportsHeartbeat |
		pb.AgentCapabilities_AgentCapabilities_AcceptsRestartCommand
	settingsCapabilities = pb.AgentCapabilities_AgentCapabilities_AcceptsOpAMPConnectionSettings |
		pb.AgentCapabilities_AgentCapabilities_ReportsConnectionSettingsStatus

	stopTimeout = 15 * time.Second
)

type options struct {
	server       string
	ca           string
	uid          string
	name         string
	heartbeat    float64
	requestUID   bool
	capabilities uint64
	settings     bool
	custom       []string
	headers      http.Header
	compression  bool
	hook         string
	verbose      bool
}

func main() {
	o := options{headers: http.Header{}}
	flag.StringVar(&o.server, "server", "", "server `URL`: ws, wss, http or https")
	flag.StringVar(&o.ca, "ca", "", "PEM `file` of the certificates to trust")
	flag.StringVar(&o.uid, "uid", "", "instance uid, a `UUID`; made up if absent")
	flag.StringVar(&o.name, "name", "opamp-go-agent", "service.name")
	flag.Float64Var(&o.heartbeat, "heartbeat", -1, "heartbeat or polling interval in `seconds`; opamp-go's own if absent")
	flag.BoolVar(&o.requestUID, "request-uid", false, "ask the server for an instance uid")
	flag.Uint64Var(&o.capabilities, "capabilities", uint64(defaultCapabilities), "capability `mask`")
	flag.BoolVar(&o.settings, "settings", false, "accept OpAMP connection settings and report their status")
	flag.Func("custom", "custom `capability`; may be repeated", func(value string) error {
		o.custom = append(o.custom, value)
		return nil
	})
	flag.Func("header", "`NAME=VALUE` of every request and handshake; may be repeated", func(text string) error {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return fmt.Errorf("a header is written NAME=VALUE")
		}
		o.headers.Add(name, value)
		return nil
	})
	flag.BoolVar(&o.compression, "compression", false, "enable compression")
	flag.StringVar(&o.hook, "hook", "", "`address` for the hooks of a conformance tester; stdin is not read then")
	flag.BoolVar(&o.verbose, "verbose", false, "log opamp-go's debug messages to stderr")
	flag.Parse()

	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "opamp-go-agent:", err)
		os.Exit(1)
	}
}

func run(o options) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	events := peer.NewEvents(os.Stdout)

	a, err := start(o, events)
	if err != nil {
		return err
	}
	var commands <-chan command
	if o.hook == "" {
		commands = peer.Commands[command](os.Stdin, events)
	} else if err := peer.ServeHooks(o.hook, events, a.hook); err != nil {
		return err
	}
	for stopping := false; !stopping; {
		select {
		case <-signals:
			stopping = true
		case c, open := <-commands:
			if !open || c.Cmd == "stop" {
				stopping = true
			} else if err := a.execute(c); err != nil {
				events.Emit("command_error", peer.Fields{"cmd": c.Cmd, "error": err.Error()})
			}
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if err := a.client.Stop(ctx); err != nil {
		return err
	}
	events.Emit("stopped", nil)
	return nil
}

func start(o options, events *peer.Events) (*agent, error) {
	server, err := url.Parse(o.server)
	if err != nil {
		return nil, err
	}
	logger := peer.Logger{Verbose: o.verbose}
	var opamp client.OpAMPClient
	var transport string
	switch server.Scheme {
	case "ws", "wss":
		opamp, transport = client.NewWebSocket(logger), "websocket"
	case "http", "https":
		opamp, transport = client.NewHTTP(logger), "http"
	default:
		return nil, fmt.Errorf("-server: unknown scheme in %q", o.server)
	}
	uid, err := instanceUID(o.uid)
	if err != nil {
		return nil, err
	}
	trust, err := trustOnly(o.ca)
	if err != nil {
		return nil, err
	}

	a := newAgent(opamp, events, uid.String(), o.name)
	capabilities := pb.AgentCapabilities(o.capabilities)
	if o.settings {
		capabilities |= settingsCapabilities
	}
	if err := a.prepare(capabilities, o.custom, o.requestUID); err != nil {
		return nil, err
	}
	settings := types.StartSettings{
		OpAMPServerURL:    o.server,
		Header:            o.headers,
		TLSConfig:         trust,
		InstanceUid:       types.InstanceUid(uid),
		Callbacks:         a.callbacks(),
		EnableCompression: o.compression,
	}
	if o.heartbeat >= 0 {
		interval := time.Duration(o.heartbeat * float64(time.Second))
		settings.HeartbeatInterval = &interval
	}
	events.Emit("starting", peer.Fields{"uid": uid.String(), "transport": transport})
	return a, opamp.Start(context.Background(), settings)
}

func instanceUID(text string) (uuid.UUID, error) {
	if text == "" {
		return uuid.NewV7()
	}
	return uuid.Parse(text)
}

// trustOnly makes a TLS config that trusts the certificates in the file. It is
// nil without a file: any config makes opamp-go turn ws into wss.
func trustOnly(path string) (*tls.Config, error) {
	if path == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("no certificate in %s", path)
	}
	return &tls.Config{RootCAs: roots}, nil
}
