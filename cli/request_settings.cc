#include "cli/request_settings.h"

#include <fstream>
#include <iostream>
#include <iterator>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace octet {

octet::v1::GenerateRequest RequestFrom(const Settings& settings) {
  octet::v1::GenerateRequest request;
  auto* sampling = request.mutable_sampling();
  sampling->set_temperature(static_cast<float>(settings.Float("temperature")));
  sampling->set_top_k(static_cast<int32_t>(settings.Int("top-k")));
  sampling->set_top_p(static_cast<float>(settings.Float("top-p")));
  sampling->set_min_p(static_cast<float>(settings.Float("min-p")));
  sampling->set_repetition_penalty(static_cast<float>(settings.Float("repetition-penalty")));
  sampling->set_frequency_penalty(static_cast<float>(settings.Float("frequency-penalty")));
  sampling->set_presence_penalty(static_cast<float>(settings.Float("presence-penalty")));
  if (settings.IsSet("seed")) sampling->set_seed(settings.Uint64("seed"));
  if (settings.IsSet("cache-salt")) request.set_cache_salt(settings.String("cache-salt"));
  auto* stop = request.mutable_stop();
  stop->set_max_tokens(static_cast<uint32_t>(settings.Int("max-tokens")));
  stop->set_min_tokens(static_cast<uint32_t>(settings.Int("min-tokens")));
  stop->set_ignore_eos(settings.Bool("ignore-eos"));
  for (const std::string& text : settings.List("stop")) stop->add_stop(text);
  return request;
}

absl::StatusOr<std::vector<TokenId>> ParseTokenIds(const std::string& text,
                                                   const std::string& file) {
  std::vector<TokenId> ids;
  const auto is_space = [](char c) { return absl::ascii_isspace(static_cast<unsigned char>(c)); };
  size_t at = 0;
  while (true) {
    while (at < text.size() && is_space(text[at])) ++at;
    if (at == text.size()) return ids;
    size_t end = at;
    while (end < text.size() && !is_space(text[end])) ++end;
    const std::string word = text.substr(at, end - at);
    TokenId id = 0;
    if (!absl::SimpleAtoi(word, &id) || id < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(file, ": \"", word.substr(0, 40), "\" at byte ", at,
                       " is no token id; allowed are integers from 0, separated by white space"));
    }
    ids.push_back(id);
    at = end;
  }
}

absl::StatusOr<std::string> ReadTextFile(const std::string& path, uint64_t bytes_max) {
  std::ifstream file;
  if (path != "-") {
    file.open(path, std::ios::binary);
    if (!file) return absl::NotFoundError(absl::StrCat("cannot read ", path));
  }
  std::istream& in = path == "-" ? std::cin : file;
  std::string text;
  char buffer[1 << 16];
  while (in.read(buffer, sizeof(buffer)) || in.gcount() > 0) {
    text.append(buffer, static_cast<size_t>(in.gcount()));
    if (text.size() > bytes_max) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": longer than allowed (at most ", bytes_max, " bytes)"));
    }
  }
  if (in.bad()) return absl::NotFoundError(absl::StrCat("cannot read ", path));
  return text;
}

}  // namespace octet
