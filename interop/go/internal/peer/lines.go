// Package peer holds what the agent and the server program share: events as
// JSON lines on stdout, commands as JSON lines on stdin, and logging to stderr.
package peer

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// maxLine bounds a command, so that a config of some size can be offered.
const maxLine = 16 << 20

// Fields are the members of an event beside its name.
type Fields map[string]any

// Events writes one JSON object per line. It may be used concurrently.
type Events struct {
	mu  sync.Mutex
	out *json.Encoder
}

// NewEvents returns Events that write to out.
func NewEvents(out io.Writer) *Events {
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	return &Events{out: encoder}
}

// Emit writes one event.
func (e *Events) Emit(name string, fields Fields) {
	line := Fields{"event": name}
	for key, value := range fields {
		line[key] = value
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.out.Encode(line); err != nil {
		fmt.Fprintln(os.Stderr, "cannot write event:", err)
	}
}

// Commands decodes one T per line of in and sends it, until in ends. A line
// that is no such object is reported as a command_error event.
func Commands[T any](in io.Reader, events *Events) <-chan T {
	commands := make(chan T)
	go func() {
		defer close(commands)
		scanner := bufio.NewScanner(in)
		scanner.Buffer(nil, maxLine)
		for scanner.Scan() {
			var command T
			if err := json.Unmarshal(scanner.Bytes(), &command); err != nil {
				events.Emit("command_error", Fields{"error": err.Error()})
				continue
			}
			commands <- command
		}
		if err := scanner.Err(); err != nil {
			events.Emit("command_error", Fields{"error": err.Error()})
		}
	}()
	return commands
}

// JSON is the protojson form of m.
func JSON(m proto.Message) json.RawMessage {
	text, err := protojson.Marshal(m)
	if err != nil {
		text, _ = json.Marshal(err.Error())
	}
	return text
}

// UID is the text form of an instance_uid: a UUID if it has 16 bytes, else hex.
func UID(uid []byte) string {
	if id, err := uuid.FromBytes(uid); err == nil {
		return id.String()
	}
	return fmt.Sprintf("%x", uid)
}
