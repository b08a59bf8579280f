// Command opamp-go-bare is the least an OpAMP server built on opamp-go can be:
// it answers each message with the agent's uid and remembers nothing but where
// to send a configuration. Benchmarks compare with it.
package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"

	pb "github.com/open-telemetry/opamp-go/protobufs"
	"github.com/open-telemetry/opamp-go/server"
	"github.com/open-telemetry/opamp-go/server/types"

	"interop/internal/peer"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "`address` for agents")
	admin := flag.String("admin", "127.0.0.1:0", "`address` where PUT /v1/config sends its body to all agents as a configuration")
	cert := flag.String("cert", "", "PEM `file` of the server's certificate; turns TLS on")
	key := flag.String("key", "", "PEM `file` of the private key")
	flag.Parse()
	if err := run(*listen, *admin, *cert, *key); err != nil {
		fmt.Fprintln(os.Stderr, "opamp-go-bare:", err)
		os.Exit(1)
	}
}

func run(listen, admin, cert, key string) error {
	e := &everyone{agents: map[types.Connection][]byte{}}
	handler, connContext, err := server.New(peer.Logger{}).Attach(server.Settings{
		Callbacks: types.Callbacks{OnConnecting: e.onConnecting},
	})
	if err != nil {
		return err
	}
	agents, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	operators, err := net.Listen("tcp", admin)
	if err != nil {
		return err
	}
	fmt.Printf("listening opamp=%s admin=%s\n", agents.Addr(), operators.Addr())
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return err
		}
		agents = tls.NewListener(agents, &tls.Config{Certificates: []tls.Certificate{pair}})
	}

	commands := http.NewServeMux()
	commands.HandleFunc("PUT /v1/config", e.onConfig)
	go http.Serve(operators, commands)
	mux := http.NewServeMux()
	mux.HandleFunc("/v1/opamp", handler)
	return (&http.Server{Handler: mux, ConnContext: connContext}).Serve(agents)
}

// everyone is who gets a configuration: the agents on WebSockets, by uid.
type everyone struct {
	mu     sync.Mutex
	agents map[types.Connection][]byte
}

func (e *everyone) onConnecting(request *http.Request) types.ConnectionResponse {
	// opamp-go calls OnConnected for WebSockets only.
	known := true
	return types.ConnectionResponse{Accept: true, ConnectionCallbacks: types.ConnectionCallbacks{
		OnConnected: func(context.Context, types.Connection) { known = false },
		OnMessage: func(_ context.Context, conn types.Connection, m *pb.AgentToServer) *pb.ServerToAgent {
			if !known {
				known = true
				e.mu.Lock()
				e.agents[conn] = m.InstanceUid
				e.mu.Unlock()
			}
			return &pb.ServerToAgent{InstanceUid: m.InstanceUid}
		},
		OnConnectionClose: func(conn types.Connection) {
			e.mu.Lock()
			delete(e.agents, conn)
			e.mu.Unlock()
		},
	}}
}

func (e *everyone) onConfig(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(request.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	hash := sha256.Sum256(body)
	offer := &pb.AgentRemoteConfig{
		Config:     &pb.AgentConfigMap{ConfigMap: map[string]*pb.AgentConfigFile{"": {Body: body}}},
		ConfigHash: hash[:],
	}
	e.mu.Lock()
	agents := make(map[types.Connection][]byte, len(e.agents))
	for conn, uid := range e.agents {
		agents[conn] = uid
	}
	e.mu.Unlock()
	for conn, uid := range agents {
		// Who has gone away gets none.
		_ = conn.Send(request.Context(), &pb.ServerToAgent{InstanceUid: uid, RemoteConfig: offer})
	}
}
