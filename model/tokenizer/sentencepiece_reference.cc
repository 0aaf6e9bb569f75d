#include "model/tokenizer/sentencepiece_reference.h"

#include <sentencepiece_processor.h>

#include "core/check.h"

namespace octet {

struct SentencePieceReference::Impl {
  sentencepiece::SentencePieceProcessor processor;
};

SentencePieceReference::SentencePieceReference(const std::string& model)
    : impl_(std::make_unique<Impl>()) {
  const auto status = impl_->processor.LoadFromSerializedProto(model);
  OCTET_CHECK(status.ok()) << status.ToString();
}

SentencePieceReference::~SentencePieceReference() = default;

std::vector<int> SentencePieceReference::Encode(const std::string& text) const {
  return impl_->processor.EncodeAsIds(text);
}

std::string SentencePieceReference::Decode(const std::vector<int>& ids) const {
  return impl_->processor.DecodeIds(ids);
}

}  // namespace octet
