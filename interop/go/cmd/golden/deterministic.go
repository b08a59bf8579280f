package main

import "google.golang.org/protobuf/reflect/protoreflect"

// encodersDiffer tells whether correct encoders can disagree about the bytes
// of m even when all of them write fields by number and map entries by key:
// in a map entry Go writes a default key or value, others (prost) leave it
// out, and unknown fields are kept by some and dropped by others.
func encodersDiffer(m protoreflect.Message) bool {
	if len(m.GetUnknown()) > 0 {
		return true
	}
	differ := false
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case field.IsMap():
			value.Map().Range(func(key protoreflect.MapKey, entry protoreflect.Value) bool {
				differ = key.String() == "" || entryDiffers(field.MapValue(), entry)
				return !differ
			})
		case field.Message() == nil:
		case field.IsList():
			for i := 0; i < value.List().Len() && !differ; i++ {
				differ = encodersDiffer(value.List().Get(i).Message())
			}
		default:
			differ = encodersDiffer(value.Message())
		}
		return !differ
	})
	return differ
}

func entryDiffers(kind protoreflect.FieldDescriptor, entry protoreflect.Value) bool {
	if kind.Message() == nil {
		return entry.Equal(kind.Default())
	}
	empty := true
	entry.Message().Range(func(protoreflect.FieldDescriptor, protoreflect.Value) bool {
		empty = false
		return false
	})
	return empty || encodersDiffer(entry.Message())
}
