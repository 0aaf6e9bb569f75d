#include "tests/wire/wire_frames.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "octet/v1/cluster.pb.h"
#include "octet/v1/expert.pb.h"
#include "octet/v1/inference.pb.h"

namespace octet {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::FileDescriptor;
using google::protobuf::Message;
using google::protobuf::OneofDescriptor;
using google::protobuf::Reflection;

constexpr int kRepeated = 2;

void AddTypes(const Descriptor* type, std::vector<const Descriptor*>* types) {
  if (type->options().map_entry()) return;
  types->push_back(type);
  for (int i = 0; i < type->nested_type_count(); ++i) AddTypes(type->nested_type(i), types);
}

// Sets a field, or adds to a repeated one.
template <typename T>
void Put(Message* message, const FieldDescriptor* field, T value,
         void (Reflection::*set)(Message*, const FieldDescriptor*, T) const,
         void (Reflection::*add)(Message*, const FieldDescriptor*, T) const) {
  const Reflection* reflection = message->GetReflection();
  (reflection->*(field->is_repeated() ? add : set))(message, field, value);
}

void PutMessage(Message* message, const FieldDescriptor* field, int variant, int depth) {
  const Reflection* reflection = message->GetReflection();
  Message* inner = field->is_repeated() ? reflection->AddMessage(message, field)
                                        : reflection->MutableMessage(message, field);
  if (depth > 0) FillWireMessage(variant, depth - 1, inner);
}

void PutValue(Message* message, const FieldDescriptor* field, int index, int variant, int depth) {
  const int value = field->number() * 1000 + variant * 10 + index;
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return Put<int32_t>(message, field, -value, &Reflection::SetInt32, &Reflection::AddInt32);
    case FieldDescriptor::CPPTYPE_INT64:
      return Put<int64_t>(message, field, -(int64_t{1} << 40) - value, &Reflection::SetInt64,
                          &Reflection::AddInt64);
    case FieldDescriptor::CPPTYPE_UINT32:
      return Put<uint32_t>(message, field, static_cast<uint32_t>(value), &Reflection::SetUInt32,
                           &Reflection::AddUInt32);
    case FieldDescriptor::CPPTYPE_UINT64:
      return Put<uint64_t>(message, field, (uint64_t{1} << 60) + static_cast<uint64_t>(value),
                           &Reflection::SetUInt64, &Reflection::AddUInt64);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return Put<double>(message, field, value + 0.125, &Reflection::SetDouble,
                         &Reflection::AddDouble);
    case FieldDescriptor::CPPTYPE_FLOAT:
      return Put<float>(message, field, static_cast<float>(value) + 0.5f, &Reflection::SetFloat,
                        &Reflection::AddFloat);
    case FieldDescriptor::CPPTYPE_BOOL:
      return Put<bool>(message, field, true, &Reflection::SetBool, &Reflection::AddBool);
    case FieldDescriptor::CPPTYPE_ENUM: {
      const auto* type = field->enum_type();
      return Put<int>(message, field, type->value(type->value_count() - 1 - index)->number(),
                      &Reflection::SetEnumValue, &Reflection::AddEnumValue);
    }
    case FieldDescriptor::CPPTYPE_STRING:
      return Put<std::string>(message, field, absl::StrCat(field->name(), " ", value),
                              &Reflection::SetString, &Reflection::AddString);
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return PutMessage(message, field, variant + index, depth);
  }
}

}  // namespace

std::vector<const Descriptor*> WireTypes() {
  std::vector<const Descriptor*> types;
  for (const FileDescriptor* file : {octet::v1::GenerateRequest::descriptor()->file(),
                                     octet::v1::StatusResponse::descriptor()->file(),
                                     octet::v1::Dispatch::descriptor()->file()}) {
    for (int i = 0; i < file->message_type_count(); ++i) AddTypes(file->message_type(i), &types);
  }
  return types;
}

int WireVariants(const Descriptor* type) {
  int variants = 1;
  for (int i = 0; i < type->real_oneof_decl_count(); ++i) {
    variants = std::max(variants, type->oneof_decl(i)->field_count());
  }
  return variants;
}

std::unique_ptr<Message> NewWireMessage(const Descriptor* type) {
  auto* factory = google::protobuf::MessageFactory::generated_factory();
  return std::unique_ptr<Message>(factory->GetPrototype(type)->New());
}

void FillWireMessage(int variant, int depth, Message* message) {
  const Descriptor* type = message->GetDescriptor();
  for (int i = 0; i < type->field_count(); ++i) {
    const FieldDescriptor* field = type->field(i);
    const OneofDescriptor* oneof = field->real_containing_oneof();
    if (oneof != nullptr && oneof->field(variant % oneof->field_count()) != field) continue;
    const int count = field->is_repeated() ? kRepeated : 1;
    for (int index = 0; index < count; ++index) PutValue(message, field, index, variant, depth);
  }
}

std::string WireFramePath(const Descriptor* type, int variant) {
  return absl::StrCat(OCTET_SOURCE_DIR, "/tests/golden/wire/", type->full_name(), ".", variant);
}

}  // namespace octet
