// Command golden writes the golden wire vectors: OpAMP messages encoded by
// opamp-go's generated code, each in a JSON file together with its protojson
// form. The Rust messages are tested against bytes they did not produce.
package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// vector is one message with the name of its file.
type vector struct {
	name        string
	description string
	message     proto.Message
}

// file is the content of one vector file.
type file struct {
	Message       string          `json:"message"`
	Description   string          `json:"description"`
	Deterministic bool            `json:"deterministic"`
	Hex           string          `json:"hex"`
	JSON          json.RawMessage `json:"json"`
}

func main() {
	dir := filepath.Join("..", "..", "opamp-proto", "tests", "golden", "opamp-go")
	if len(os.Args) > 1 {
		dir = os.Args[1]
	}
	if err := writeAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, "golden:", err)
		os.Exit(1)
	}
}

func allVectors() ([]vector, error) {
	vectors := append(agentVectors(), serverVectors()...)
	vectors = append(vectors, valueVectors()...)
	attributes, err := healthAttributesVector()
	if err != nil {
		return nil, err
	}
	return append(vectors, attributes), nil
}

func writeAll(dir string) error {
	vectors, err := allVectors()
	if err != nil {
		return err
	}
	for _, v := range vectors {
		content, err := v.render()
		if err != nil {
			return fmt.Errorf("%s: %w", v.name, err)
		}
		if err := os.WriteFile(filepath.Join(dir, v.name+".json"), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (v vector) render() ([]byte, error) {
	wire, err := proto.MarshalOptions{Deterministic: true}.Marshal(v.message)
	if err != nil {
		return nil, err
	}
	text, err := protojson.Marshal(v.message)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	// protojson varies its white space on purpose; indenting makes it stable.
	encoder.SetIndent("", "  ")
	err = encoder.Encode(file{
		Message:       string(v.message.ProtoReflect().Descriptor().Name()),
		Description:   v.description,
		Deterministic: !encodersDiffer(v.message.ProtoReflect()),
		Hex:           hex.EncodeToString(wire),
		JSON:          text,
	})
	return out.Bytes(), err
}
