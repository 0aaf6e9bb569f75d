// Text to token ids and back. Two implementations: byte-level and byte-fallback BPE
// (bpe_tokenizer.h) and SentencePiece (sentencepiece_tokenizer.h), made by the functions below.
#ifndef OCTET_MODEL_TOKENIZER_TOKENIZER_H_
#define OCTET_MODEL_TOKENIZER_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/ids.h"

namespace octet {

struct EncodeOptions {
  // Put bos_id() first, where the tokenizer has one. Leave it off for text from a chat template,
  // which spells its own.
  bool add_bos = false;
  // Special tokens spelled in the text ("<|im_end|>", "</s>") become their ids. Off for text from
  // an untrusted source: then no text gives a special id.
  bool parse_special = false;
};

// What a model's files say beside the vocabulary.
struct TokenizerSettings {
  std::optional<TokenId> bos_id;
  std::optional<TokenId> unk_id;
  std::optional<TokenId> pad_id;
  std::vector<TokenId> eos_ids;  // ascending, no duplicates; each ends a generation
  bool add_bos = false;          // what the model was trained with
  std::string chat_template;     // Jinja source for chat_template.h; empty: none
};

// Immutable; every method is thread-safe, does no I/O and does not block.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // INVALID_ARGUMENT: text is longer than kEncodeBytesMax or not UTF-8 (the offset is named).
  // RESOURCE_EXHAUSTED: a pre-tokenizer's pattern needed more steps than kRegexMatchLimit.
  virtual absl::StatusOr<std::vector<TokenId>> Encode(std::string_view text,
                                                      const EncodeOptions& options) const = 0;

  // This tokenizer as one file of our own JSON schema, for DeserializeTokenizer.
  virtual std::string Serialize() const = 0;

  // The text of ids as valid UTF-8: what is no character becomes U+FFFD (one for each maximal
  // invalid part). A SentencePiece tokenizer's leading space is dropped where its encoder adds one.
  // Ids outside the vocabulary give nothing.
  std::string Decode(absl::Span<const TokenId> ids, bool skip_special) const;

  // The raw bytes of one piece, which need not be whole characters; a special token gives its
  // spelling. Empty for an id outside the vocabulary. Lives as long as the tokenizer.
  const std::string& TokenBytes(TokenId id) const;

  // The id of a piece as the vocabulary spells it ("<s>", "▁the", "Ġthe", "<0x0A>").
  std::optional<TokenId> IdOf(std::string_view piece) const;

  // Ids lie in [0, vocab_size()); a model may have more rows of logits than that.
  uint32_t vocab_size() const { return static_cast<uint32_t>(bytes_.size()); }
  // Control, unknown and added special tokens: those that skip_special leaves out.
  bool is_special(TokenId id) const;
  std::optional<TokenId> bos_id() const { return settings_.bos_id; }
  const std::vector<TokenId>& eos_ids() const { return settings_.eos_ids; }
  bool add_bos_default() const { return settings_.add_bos; }
  const std::string& chat_template() const { return settings_.chat_template; }
  const TokenizerSettings& settings() const { return settings_; }
  // Decode drops one leading space (the one that the encoder adds).
  bool drops_leading_space() const { return drops_leading_space_; }

 protected:
  Tokenizer() = default;

  // Filled by the implementation before it hands the object out. bytes_, pieces_ and special_ are
  // indexed by id and equally long.
  std::vector<std::string> bytes_;
  std::vector<std::string> pieces_;
  std::vector<uint8_t> special_;
  absl::flat_hash_map<std::string, TokenId> ids_;
  TokenizerSettings settings_;
  bool drops_leading_space_ = false;
};

// Decodes a sequence as it grows. The strings of Append and Flush, joined, equal Decode of the
// whole sequence, and each is whole characters of UTF-8. Owned and used by one thread; the
// tokenizer must outlive it.
class StreamDecoder {
 public:
  // kContinuation: the ids go on after other text, so a leading space is text and stays.
  enum class Start { kText, kContinuation };

  StreamDecoder(const Tokenizer* tokenizer, bool skip_special, Start start = Start::kText)
      : tokenizer_(tokenizer),
        skip_special_(skip_special),
        drop_space_(start == Start::kText && tokenizer->drops_leading_space()) {}

  // The characters that id completes; often empty in the middle of one.
  std::string Append(TokenId id);
  // The end of the sequence: U+FFFD for a character that never came to its end, else empty.
  std::string Flush();

 private:
  const Tokenizer* tokenizer_;
  const bool skip_special_;
  bool drop_space_;
  std::string pending_;  // start of a character, at most 3 bytes between calls
};

// Tokenizer keys of a GGUF file, as stored there. bos_id and the like: absent keys stay empty.
struct GgufTokenizerData {
  std::string model;  // tokenizer.ggml.model: "llama" or "gpt2"
  std::string pre;    // tokenizer.ggml.pre; empty: absent
  std::vector<std::string> tokens;
  std::vector<float> scores;         // "llama" only
  std::vector<int32_t> token_types;  // empty: all normal
  std::vector<std::string> merges;   // "gpt2" only
  std::optional<TokenId> bos_id, eos_id, eot_id, unk_id, pad_id;
  std::optional<bool> add_bos, add_space_prefix;
  std::string chat_template;
};

// INVALID_ARGUMENT or UNIMPLEMENTED (an unknown model or pre, named) with one clear error.
absl::StatusOr<std::unique_ptr<Tokenizer>> TokenizerFromGguf(const GgufTokenizerData& data);

// From a Hugging Face directory: tokenizer.json when it is byte-level BPE, else tokenizer.model,
// else tokenizer.json; with bos, eos and the chat template of tokenizer_config.json,
// special_tokens_map.json, generation_config.json, config.json and chat_template.jinja. Also reads
// the tokenizer.json that Serialize wrote. Blocks on file reads. NOT_FOUND: no tokenizer there.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizerFromDirectory(const std::string& directory);

// Reads what Tokenizer::Serialize wrote; bytes may be hostile.
absl::StatusOr<std::unique_ptr<Tokenizer>> DeserializeTokenizer(std::string_view bytes);

// A Hugging Face tokenizer.json of model type BPE, or the bytes of a SentencePiece tokenizer.model;
// bytes may be hostile. UNIMPLEMENTED names a component that is not supported. A bos or eos that
// only other files name is missing from settings().
absl::StatusOr<std::unique_ptr<Tokenizer>> TokenizerFromHfJson(std::string_view bytes);
absl::StatusOr<std::unique_ptr<Tokenizer>> TokenizerFromSentencePiece(std::string_view bytes);

}  // namespace octet

#endif  // OCTET_MODEL_TOKENIZER_TOKENIZER_H_
