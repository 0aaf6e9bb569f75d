// Hugging Face's tokenizer.json, model type BPE.
#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/status_macros.h"
#include "model/json.h"
#include "model/tokenizer/bpe_tokenizer.h"
#include "model/tokenizer/hf_files.h"
#include "model/tokenizer/utf8.h"

namespace octet {
namespace {

using Json = nlohmann::json;

constexpr char kModel[] = "tokenizer.json: model";

absl::Status Bad(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("tokenizer.json: ", what));
}

absl::Status Unsupported(absl::string_view what) {
  return absl::UnimplementedError(absl::StrCat("tokenizer.json: ", what, " is not supported"));
}

absl::Status ParseVocab(const Json& model, BpeSpec* spec) {
  const Json* vocab = JsonFind(model, "vocab");
  if (vocab == nullptr || !vocab->is_object()) return Bad("model has no object \"vocab\"");
  if (vocab->size() > kVocabMax) return Bad(absl::StrCat("vocab has ", vocab->size(), " entries"));
  for (const auto& [token, value] : vocab->items()) {
    if (!value.is_number_unsigned() || value.get<uint64_t>() >= kVocabMax) {
      return Bad(absl::StrCat("vocab entry ", JsonForError(token), " is ", JsonForError(value),
                              ", allowed is an id below ", kVocabMax));
    }
    const size_t id = value.get<uint64_t>();
    if (token.empty()) return Bad("vocab has an empty token");
    if (id >= spec->tokens.size()) spec->tokens.resize(id + 1);
    if (!spec->tokens[id].empty()) return Bad(absl::StrCat("vocab gives id ", id, " twice"));
    spec->tokens[id] = token;
  }
  return absl::OkStatus();
}

// A merge is "left right" or ["left", "right"].
absl::StatusOr<std::pair<std::string, std::string>> ParseMerge(const Json& merge, size_t index) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return std::pair(merge[0].get<std::string>(), merge[1].get<std::string>());
  }
  if (merge.is_string()) {
    const std::string& text = merge.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos) {
      return std::pair(text.substr(0, space), text.substr(space + 1));
    }
  }
  return Bad(absl::StrCat("merges[", index, "] is ", JsonForError(merge),
                          ", allowed is \"left right\" or [\"left\", \"right\"]"));
}

absl::Status ParseMerges(const Json& model, BpeSpec* spec) {
  const Json* merges = JsonFind(model, "merges");
  if (merges == nullptr || !merges->is_array() || merges->size() > kMergesMax) {
    return Bad(absl::StrCat("model needs an array \"merges\" of at most ", kMergesMax));
  }
  absl::flat_hash_map<std::string, TokenId> ids;
  for (size_t i = 0; i < spec->tokens.size(); ++i) {
    ids.emplace(spec->tokens[i], static_cast<TokenId>(i));
  }
  for (size_t i = 0; i < merges->size(); ++i) {
    OCTET_ASSIGN_OR_RETURN(const auto pair, ParseMerge((*merges)[i], i));
    auto left = ids.find(pair.first);
    auto right = ids.find(pair.second);
    if (left == ids.end() || right == ids.end()) {
      return Bad(absl::StrCat("merges[", i, "] joins ", JsonForError(pair.first), " and ",
                              JsonForError(pair.second), ", which are not both in the vocabulary"));
    }
    spec->merges.emplace_back(left->second, right->second);
  }
  return absl::OkStatus();
}

absl::Status ParseModel(const Json& root, BpeSpec* spec) {
  const Json* model = JsonFind(root, "model");
  if (model == nullptr) return Bad("field \"model\" is missing");
  // Files of early versions leave the type out.
  OCTET_ASSIGN_OR_RETURN(const std::string type, JsonStringOr(*model, "type", kModel, "BPE"));
  if (type != "BPE") return Unsupported(absl::StrCat("model type ", JsonForError(type)));
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    OCTET_ASSIGN_OR_RETURN(const std::string affix, JsonStringOr(*model, key, kModel, ""));
    if (!affix.empty()) return Unsupported(absl::StrCat(key, " ", JsonForError(affix)));
  }
  OCTET_RETURN_IF_ERROR(ParseVocab(*model, spec));
  OCTET_RETURN_IF_ERROR(ParseMerges(*model, spec));
  OCTET_ASSIGN_OR_RETURN(spec->byte_fallback, JsonBoolOr(*model, "byte_fallback", kModel, false));
  OCTET_ASSIGN_OR_RETURN(spec->fuse_unk, JsonBoolOr(*model, "fuse_unk", kModel, false));
  OCTET_ASSIGN_OR_RETURN(spec->ignore_merges, JsonBoolOr(*model, "ignore_merges", kModel, false));
  OCTET_ASSIGN_OR_RETURN(const std::string unk, JsonStringOr(*model, "unk_token", kModel, ""));
  for (size_t i = 0; i < spec->tokens.size() && !unk.empty(); ++i) {
    if (spec->tokens[i] == unk) spec->model_unk = static_cast<TokenId>(i);
  }
  spec->settings.unk_id = spec->model_unk;
  return absl::OkStatus();
}

// What Decode does with spaces follows from the decoder of a vocabulary that is not byte-level.
absl::Status ParseDecoder(const Json& decoder, BpeSpec* spec) {
  constexpr char kWhere[] = "tokenizer.json: decoder";
  OCTET_ASSIGN_OR_RETURN(const std::string type, JsonString(decoder, "type", kWhere));
  if (type == "Sequence") {
    const Json* list = JsonFind(decoder, "decoders");
    if (list == nullptr || !list->is_array()) return Bad("decoder Sequence needs \"decoders\"");
    for (const Json& entry : *list) OCTET_RETURN_IF_ERROR(ParseDecoder(entry, spec));
  } else if (type == "Strip") {
    OCTET_ASSIGN_OR_RETURN(const std::string content, JsonString(decoder, "content", kWhere));
    OCTET_ASSIGN_OR_RETURN(const int64_t start, JsonIntOr(decoder, "start", kWhere, 0, 1000, 0));
    OCTET_ASSIGN_OR_RETURN(const int64_t stop, JsonIntOr(decoder, "stop", kWhere, 0, 1000, 0));
    if (content != " " || start > 1 || stop != 0) return Unsupported("this Strip decoder");
    spec->drop_leading_space = start == 1;
  } else if (type == "Metaspace") {
    OCTET_ASSIGN_OR_RETURN(const std::string scheme,
                           JsonStringOr(decoder, "prepend_scheme", kWhere, "always"));
    spec->drop_leading_space = scheme != "never";
  } else if (type != "Replace" && type != "ByteFallback" && type != "Fuse" && type != "ByteLevel") {
    return Unsupported(absl::StrCat("decoder type ", JsonForError(type)));
  }
  return absl::OkStatus();
}

// TemplateProcessing that puts one special token before the text is how BOS is asked for. An EOS
// after the text is for training and left out.
absl::Status ParsePostProcessor(const Json& post, BpeSpec* spec) {
  constexpr char kWhere[] = "tokenizer.json: post_processor";
  OCTET_ASSIGN_OR_RETURN(const std::string type, JsonString(post, "type", kWhere));
  if (type == "ByteLevel") return absl::OkStatus();
  if (type == "Sequence") {
    const Json* list = JsonFind(post, "processors");
    if (list == nullptr || !list->is_array()) return Bad("post_processor needs \"processors\"");
    for (const Json& entry : *list) OCTET_RETURN_IF_ERROR(ParsePostProcessor(entry, spec));
    return absl::OkStatus();
  }
  if (type != "TemplateProcessing") {
    return Unsupported(absl::StrCat("post_processor type ", JsonForError(type)));
  }
  const Json* single = JsonFind(post, "single");
  if (single == nullptr || !single->is_array() || single->empty()) {
    return Bad("post_processor needs an array \"single\"");
  }
  const Json* special = JsonFind((*single)[0], "SpecialToken");
  if (special == nullptr) return absl::OkStatus();
  OCTET_ASSIGN_OR_RETURN(const std::string name, JsonString(*special, "id", kWhere));
  for (const AddedToken& token : spec->added) {
    if (token.content != name) continue;
    spec->settings.bos_id = token.id;
    spec->settings.add_bos = true;
    return absl::OkStatus();
  }
  return Bad(absl::StrCat("post_processor token ", JsonForError(name), " is no added token"));
}

}  // namespace

absl::StatusOr<BpeSpec> BpeSpecFromHfJson(const Json& root) {
  if (!root.is_object()) return Bad("is not an object");
  BpeSpec spec;
  OCTET_RETURN_IF_ERROR(ParseModel(root, &spec));
  if (const Json* added = JsonFind(root, "added_tokens"); added != nullptr) {
    OCTET_ASSIGN_OR_RETURN(spec.added, ParseAddedTokens(*added, "tokenizer.json: added_tokens"));
  }
  if (const Json* step = JsonFind(root, "normalizer")) spec.normalizer = *step;
  if (const Json* step = JsonFind(root, "pre_tokenizer")) spec.pre_tokenizer = *step;
  OCTET_ASSIGN_OR_RETURN(const PreTokenizer pre, PreTokenizer::Parse(spec.pre_tokenizer));
  spec.byte_level = pre.byte_level();
  const Json* decoder = JsonFind(root, "decoder");
  if (decoder != nullptr) OCTET_RETURN_IF_ERROR(ParseDecoder(*decoder, &spec));
  if (spec.byte_level) spec.drop_leading_space = false;
  if (const Json* post = JsonFind(root, "post_processor"); post != nullptr) {
    OCTET_RETURN_IF_ERROR(ParsePostProcessor(*post, &spec));
  }
  return spec;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> TokenizerFromHfJson(std::string_view bytes) {
  OCTET_ASSIGN_OR_RETURN(const Json root, ParseJsonBounded(bytes, kTokenizerBytesMax));
  OCTET_ASSIGN_OR_RETURN(BpeSpec spec, BpeSpecFromHfJson(root));
  return BpeTokenizer::Create(std::move(spec));
}

}  // namespace octet
