// Command opamp-go-server is an OpAMP server built on opamp-go's server
// package, to be driven by a test: events go to stdout, commands come from
// stdin. The README of this module is the contract.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/open-telemetry/opamp-go/server"
	"github.com/open-telemetry/opamp-go/server/types"

	"interop/internal/peer"
)

const (
	path        = "/v1/opamp"
	stopTimeout = 5 * time.Second
)

type options struct {
	listen       string
	cert, key    string
	capabilities uint64
	custom       []string
	compression  bool
	hook         string
	verbose      bool
}

func main() {
	var o options
	flag.StringVar(&o.listen, "listen", "127.0.0.1:0", "`address` to listen on")
	flag.StringVar(&o.cert, "cert", "", "PEM `file` of the server's certificate; turns TLS on")
	flag.StringVar(&o.key, "key", "", "PEM `file` of the private key")
	flag.Uint64Var(&o.capabilities, "capabilities", uint64(defaultCapabilities), "capability `mask`")
	flag.Func("custom", "custom `capability`; may be repeated", func(value string) error {
		o.custom = append(o.custom, value)
		return nil
	})
	flag.BoolVar(&o.compression, "compression", false, "enable compression")
	flag.StringVar(&o.hook, "hook", "", "`address` for the hooks of a conformance tester; stdin is not read then")
	flag.BoolVar(&o.verbose, "verbose", false, "log opamp-go's debug messages to stderr")
	flag.Parse()

	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "opamp-go-server:", err)
		os.Exit(1)
	}
}

func run(o options) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	events := peer.NewEvents(os.Stdout)
	f := newFleet(events, o.capabilities)

	handler, connContext, err := server.New(peer.Logger{Verbose: o.verbose}).Attach(server.Settings{
		Callbacks:          types.Callbacks{OnConnecting: f.onConnecting},
		EnableCompression:  o.compression,
		CustomCapabilities: o.custom,
	})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc(path, handler)
	web := &http.Server{Handler: mux, ConnContext: connContext}

	sockets, err := listen(o)
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() {
		if err := web.Serve(sockets); !errors.Is(err, http.ErrServerClosed) {
			failed <- err
		}
	}()
	events.Emit("listening", peer.Fields{"addr": sockets.Addr().String()})

	var commands <-chan command
	if o.hook == "" {
		commands = peer.Commands[command](os.Stdin, events)
	} else if err := peer.ServeHooks(o.hook, events, f.hook); err != nil {
		return err
	}
	for stopping := false; !stopping; {
		select {
		case <-signals:
			stopping = true
		case err := <-failed:
			return err
		case c, open := <-commands:
			if !open || c.Cmd == "stop" {
				stopping = true
			} else if err := f.execute(c); err != nil {
				events.Emit("command_error", peer.Fields{"cmd": c.Cmd, "error": err.Error()})
			}
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if err := web.Shutdown(ctx); err != nil {
		return err
	}
	events.Emit("stopped", nil)
	return nil
}

func listen(o options) (net.Listener, error) {
	var config *tls.Config
	if o.cert != "" {
		pair, err := tls.LoadX509KeyPair(o.cert, o.key)
		if err != nil {
			return nil, err
		}
		config = &tls.Config{Certificates: []tls.Certificate{pair}}
	}
	sockets, err := net.Listen("tcp", o.listen)
	if err != nil {
		return nil, err
	}
	if config != nil {
		sockets = tls.NewListener(sockets, config)
	}
	return closingListener{sockets}, nil
}
