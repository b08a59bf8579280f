package peer

import (
	"encoding/json"
	"errors"
	"net"
	"net/http"
)

// Hook is what a conformance tester asks for; which members count depends on
// Name.
type Hook struct {
	Name        string            `json:"hook"`
	InstanceUID string            `json:"instance_uid"`
	Files       map[string]File   `json:"files"`
	Capability  string            `json:"capability"`
	Type        string            `json:"type"`
	Data        []byte            `json:"data"`
	Healthy     bool              `json:"healthy"`
	LastError   string            `json:"last_error"`
	Attributes  map[string]string `json:"attributes"`
	Body        string            `json:"body"`
}

// File is a file of an offered configuration.
type File struct {
	Body        []byte `json:"body"`
	ContentType string `json:"content_type"`
}

// ErrUnsupported answers a hook that cannot be done here.
var ErrUnsupported = errors.New("not supported")

// ServeHooks does what is posted to addr until the process ends, and says in an
// event where that is.
func ServeHooks(addr string, events *Events, do func(Hook) (Fields, error)) error {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	events.Emit("hooks", Fields{"url": "http://" + listener.Addr().String()})
	handler := func(w http.ResponseWriter, request *http.Request) {
		var hook Hook
		if err := json.NewDecoder(http.MaxBytesReader(w, request.Body, maxLine)).Decode(&hook); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		answer, err := do(hook)
		switch {
		case errors.Is(err, ErrUnsupported):
			http.Error(w, err.Error(), http.StatusNotImplemented)
		case err != nil:
			http.Error(w, err.Error(), http.StatusInternalServerError)
		default:
			if answer == nil {
				answer = Fields{}
			}
			w.Header().Set("Content-Type", "application/json")
			// A tester that has gone away does not want to know.
			_ = json.NewEncoder(w).Encode(answer)
		}
	}
	go func() {
		// It ends with the process.
		_ = http.Serve(listener, http.HandlerFunc(handler))
	}()
	return nil
}
