package main

import (
	pb "github.com/open-telemetry/opamp-go/protobufs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// healthAttributesVector has attributes at all four levels of a health tree.
// opamp-go's released messages do not have ComponentHealth.attributes, so the
// field is added to its schema and the message is built on that.
func healthAttributesVector() (vector, error) {
	report := &pb.AgentToServer{
		InstanceUid: agentUID, SequenceNum: 10, Capabilities: 0x801, Health: health(),
	}
	message, err := withHealthAttributes(report)
	return vector{
		"agent-health-attributes",
		"Health tree of four levels with attributes of every kind; the schema of opamp-go plus ComponentHealth.attributes.",
		message,
	}, err
}

func withHealthAttributes(report *pb.AgentToServer) (proto.Message, error) {
	schema := protodesc.ToFileDescriptorProto(report.ProtoReflect().Descriptor().ParentFile())
	for _, m := range schema.MessageType {
		if m.GetName() != "ComponentHealth" {
			continue
		}
		m.Field = append(m.Field, &descriptorpb.FieldDescriptorProto{
			Name:     proto.String("attributes"),
			JsonName: proto.String("attributes"),
			Number:   proto.Int32(7),
			Label:    descriptorpb.FieldDescriptorProto_LABEL_REPEATED.Enum(),
			Type:     descriptorpb.FieldDescriptorProto_TYPE_MESSAGE.Enum(),
			TypeName: proto.String("." + string((&pb.KeyValue{}).ProtoReflect().Descriptor().FullName())),
		})
	}
	extended, err := protodesc.NewFile(schema, protoregistry.GlobalFiles)
	if err != nil {
		return nil, err
	}
	message := dynamicpb.NewMessage(extended.Messages().ByName("AgentToServer"))
	wire, err := proto.Marshal(report)
	if err != nil {
		return nil, err
	}
	if err := proto.Unmarshal(wire, message); err != nil {
		return nil, err
	}
	root := message.Mutable(message.Descriptor().Fields().ByName("health")).Message()
	return message, addAttributes(root, 1)
}

// addAttributes gives each component of the tree its level and one attribute
// of every kind.
func addAttributes(component protoreflect.Message, level int64) error {
	fields := component.Descriptor().Fields()
	attributes := component.Mutable(fields.ByName("attributes")).List()
	for _, kv := range append([]*pb.KeyValue{attribute("level", integer(level))}, everyKind()...) {
		wire, err := proto.Marshal(kv)
		if err != nil {
			return err
		}
		element := attributes.NewElement()
		if err := proto.Unmarshal(wire, element.Message().Interface()); err != nil {
			return err
		}
		attributes.Append(element)
	}
	var failed error
	component.Get(fields.ByName("component_health_map")).Map().Range(func(_ protoreflect.MapKey, child protoreflect.Value) bool {
		failed = addAttributes(child.Message(), level+1)
		return failed == nil
	})
	return failed
}
