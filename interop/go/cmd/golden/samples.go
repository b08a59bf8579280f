package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"

	"github.com/google/uuid"
	pb "github.com/open-telemetry/opamp-go/protobufs"
)

// Times and identities shared by the vectors: fixed, so that the files are.
const startNano = 1_767_225_600_000_000_000

var (
	agentUID = uid("019b76da-a800-7c3e-8f21-5d6e7a8b9c0d")
	otherUID = uid("019b76db-9260-7abc-9def-0123456789ab")
)

func uid(text string) []byte {
	id := uuid.MustParse(text)
	return id[:]
}

func hash(text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return sum[:]
}

func text(s string) *pb.AnyValue {
	return &pb.AnyValue{Value: &pb.AnyValue_StringValue{StringValue: s}}
}

func boolean(b bool) *pb.AnyValue {
	return &pb.AnyValue{Value: &pb.AnyValue_BoolValue{BoolValue: b}}
}

func integer(i int64) *pb.AnyValue {
	return &pb.AnyValue{Value: &pb.AnyValue_IntValue{IntValue: i}}
}

func double(f float64) *pb.AnyValue {
	return &pb.AnyValue{Value: &pb.AnyValue_DoubleValue{DoubleValue: f}}
}

func binary(b ...byte) *pb.AnyValue {
	return &pb.AnyValue{Value: &pb.AnyValue_BytesValue{BytesValue: b}}
}

func array(values ...*pb.AnyValue) *pb.AnyValue {
	return &pb.AnyValue{Value: &pb.AnyValue_ArrayValue{ArrayValue: &pb.ArrayValue{Values: values}}}
}

func list(values ...*pb.KeyValue) *pb.AnyValue {
	return &pb.AnyValue{Value: &pb.AnyValue_KvlistValue{KvlistValue: &pb.KeyValueList{Values: values}}}
}

func attribute(key string, value *pb.AnyValue) *pb.KeyValue {
	return &pb.KeyValue{Key: key, Value: value}
}

func headers(pairs ...string) *pb.Headers {
	out := &pb.Headers{}
	for i := 0; i+1 < len(pairs); i += 2 {
		out.Headers = append(out.Headers, &pb.Header{Key: pairs[i], Value: pairs[i+1]})
	}
	return out
}

func configMap(files map[string]*pb.AgentConfigFile) *pb.AgentConfigMap {
	return &pb.AgentConfigMap{ConfigMap: files}
}

func yaml(body string) *pb.AgentConfigFile {
	return &pb.AgentConfigFile{Body: []byte(body), ContentType: "text/yaml"}
}

// everyKind has an attribute of each kind of AnyValue, nested kinds included.
func everyKind() []*pb.KeyValue {
	return []*pb.KeyValue{
		attribute("text", text("größer → ∞")),
		attribute("flag", boolean(true)),
		attribute("count", integer(-42)),
		attribute("ratio", double(0.1)),
		attribute("list", array(text("a"), integer(1), array(boolean(false)))),
		attribute("object", list(
			attribute("inner", text("value")),
			attribute("deeper", list(attribute("bytes", binary(0xff, 0x00, 0x7f)))),
		)),
		attribute("bytes", binary(0x00, 0x01, 0xfe, 0xff)),
		attribute("unset", &pb.AnyValue{}),
		attribute("absent", nil),
	}
}

// csr makes a real certificate request; the fixed Ed25519 seed makes the
// signature, and so the bytes, the same in each run.
func csr() []byte {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "golden agent"},
	}, key)
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}
