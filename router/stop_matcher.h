// Finds stop strings in a text that arrives in pieces, and holds back what might become one.
#ifndef OCTET_ROUTER_STOP_MATCHER_H_
#define OCTET_ROUTER_STOP_MATCHER_H_

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace octet {

// The match that ends first wins, of several with the same end the longest; so the result does not
// depend on how the text is cut into pieces. Owned and used by one thread.
class StopMatcher {
 public:
  // The strings are not empty.
  explicit StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {}
  StopMatcher(const StopMatcher&) = delete;
  StopMatcher& operator=(const StopMatcher&) = delete;

  // Appends `text` and returns what is safe to show: never a byte of a stop string that is or may
  // yet be found. After a match nothing more comes out.
  std::string Append(std::string_view text);
  // Passes text through without looking at it (before min_tokens). What is held comes out first.
  std::string AppendUnmatched(std::string_view text);
  // The end of the text: what was held.
  std::string Flush();

  // The stop string that was found, else null.
  const std::string* match() const { return match_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  const std::string* match_ = nullptr;
};

}  // namespace octet

#endif  // OCTET_ROUTER_STOP_MATCHER_H_
