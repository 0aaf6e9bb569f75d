// libsentencepiece behind a plain interface: its header and Abseil's do not compile together.
#ifndef OCTET_MODEL_TOKENIZER_SENTENCEPIECE_REFERENCE_H_
#define OCTET_MODEL_TOKENIZER_SENTENCEPIECE_REFERENCE_H_

#include <memory>
#include <string>
#include <vector>

namespace octet {

class SentencePieceReference {
 public:
  // Stops the process when the library refuses the model.
  explicit SentencePieceReference(const std::string& model);
  ~SentencePieceReference();
  std::vector<int> Encode(const std::string& text) const;
  std::string Decode(const std::vector<int>& ids) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace octet

#endif  // OCTET_MODEL_TOKENIZER_SENTENCEPIECE_REFERENCE_H_
