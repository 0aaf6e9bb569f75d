// Messages of the wire with every field set, to be kept as bytes: what one release has written, the
// next ones have to read.
#ifndef OCTET_TESTS_WIRE_WIRE_FRAMES_H_
#define OCTET_TESTS_WIRE_WIRE_FRAMES_H_

#include <google/protobuf/message.h>

#include <memory>
#include <string>
#include <vector>

namespace octet {

// Every message type of octet.v1, nested ones too, but for the entries of maps.
std::vector<const google::protobuf::Descriptor*> WireTypes();

// How many messages it takes to set each alternative of each `oneof` of the type once.
int WireVariants(const google::protobuf::Descriptor* type);

// An empty message of the type.
std::unique_ptr<google::protobuf::Message> NewWireMessage(const google::protobuf::Descriptor* type);

// Sets every field to a value that follows from its number, two of each repeated one; of a `oneof`
// alternative `variant`, counted around. Messages below `depth` levels stay empty.
void FillWireMessage(int variant, int depth, google::protobuf::Message* message);

// Below tests/golden/wire: "octet.v1.Chunk.0", without the ending .bin or .txt.
std::string WireFramePath(const google::protobuf::Descriptor* type, int variant);

}  // namespace octet

#endif  // OCTET_TESTS_WIRE_WIRE_FRAMES_H_
