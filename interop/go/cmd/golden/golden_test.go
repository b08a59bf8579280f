package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	pb "github.com/open-telemetry/opamp-go/protobufs"
	"google.golang.org/protobuf/proto"
)

const checkedIn = "../../../../opamp-proto/tests/golden/opamp-go"

// The files in the tree are what this program writes, no more and no less.
func TestCheckedInVectorsAreCurrent(t *testing.T) {
	dir := t.TempDir()
	if err := writeAll(dir); err != nil {
		t.Fatal(err)
	}
	written, _ := filepath.Glob(filepath.Join(dir, "*.json"))
	present, _ := filepath.Glob(filepath.Join(checkedIn, "*.json"))
	if len(written) != len(present) {
		t.Errorf("%d vectors written, %d checked in", len(written), len(present))
	}
	for _, path := range written {
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(checkedIn, filepath.Base(path)))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s differs from what is written (%v)", filepath.Base(path), err)
		}
	}
}

// Each vector decodes with opamp-go's own messages and encodes to the same bytes.
func TestVectorsDecode(t *testing.T) {
	paths, _ := filepath.Glob(filepath.Join(checkedIn, "*.json"))
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var f file
		if err := json.Unmarshal(content, &f); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		wire, err := hex.DecodeString(f.Hex)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		var message proto.Message = &pb.ServerToAgent{}
		if f.Message == "AgentToServer" {
			message = &pb.AgentToServer{}
		}
		if err := proto.Unmarshal(wire, message); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		again, err := proto.MarshalOptions{Deterministic: true}.Marshal(message)
		if err != nil || !bytes.Equal(again, wire) {
			t.Errorf("%s: encodes differently (%v)", path, err)
		}
	}
}
