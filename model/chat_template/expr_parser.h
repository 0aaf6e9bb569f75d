// The expressions inside a template's tags, by recursive descent with Jinja's precedences.
#ifndef OCTET_MODEL_CHAT_TEMPLATE_EXPR_PARSER_H_
#define OCTET_MODEL_CHAT_TEMPLATE_EXPR_PARSER_H_

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "model/chat_template/ast.h"
#include "model/chat_template/lexer.h"

namespace octet::chat_template_internal {

// A cursor over tokens, shared with the statement parser. The tokens must outlive it.
class ExprParser {
 public:
  explicit ExprParser(const std::vector<Token>* tokens) : tokens_(tokens) {}

  const Token& Peek() const { return (*tokens_)[at_]; }
  Token Take() { return (*tokens_)[Peek().kind == Token::Kind::kEnd ? at_ : at_++]; }
  bool IsOperator(std::string_view text) const { return Is(Token::Kind::kOperator, text); }
  bool IsName(std::string_view text) const { return Is(Token::Kind::kName, text); }
  bool AcceptOperator(std::string_view text);
  bool AcceptName(std::string_view text);
  absl::Status ExpectOperator(std::string_view text);
  absl::Status ExpectName(std::string_view text);
  absl::Status Expect(Token::Kind kind, std::string_view what);
  absl::Status Error(std::string_view what) const;
  absl::Status Unsupported(std::string_view what) const;

  // A whole expression; without_if: up to, not with, an inline if (as in a for tag).
  absl::StatusOr<ExprPtr> Expression(bool without_if = false);
  // expression, expression, ...: a list when there is a comma.
  absl::StatusOr<ExprPtr> TupleOrExpression(bool without_if = false);

 private:
  using Result = absl::StatusOr<ExprPtr>;

  bool Is(Token::Kind kind, std::string_view text) const {
    return Peek().kind == kind && Peek().text == text;
  }
  ExprPtr New(Expr::Kind kind, std::string text = "") const;
  // Sets the height from the children; an error when it is too high.
  Result Finish(ExprPtr expr) const;
  Result Binary(Expr::Kind kind, std::string op, ExprPtr left, ExprPtr right) const;
  // One level of left-associative operators.
  Result Chain(std::initializer_list<std::string_view> ops, Result (ExprParser::*next)());

  Result Or();
  Result And();
  Result Not();
  Result Compare();
  Result Sum();
  Result Concat();
  Result Product();
  Result Power();
  Result Unary();
  Result UnaryWith(bool with_filters);
  Result Primary();
  Result Number();
  Result ListLiteral();
  Result DictLiteral();
  Result Parenthesized();
  Result Postfix(ExprPtr expr);
  Result Subscript(ExprPtr expr);
  Result Filters(ExprPtr expr);
  Result Test(ExprPtr expr);
  absl::Status Arguments(Expr* call);

  const std::vector<Token>* tokens_;
  size_t at_ = 0;
  uint32_t depth_ = 0;
};

// The filters and tests that there are (builtins.cc).
bool IsFilter(std::string_view name);
bool IsTest(std::string_view name);

}  // namespace octet::chat_template_internal

#endif  // OCTET_MODEL_CHAT_TEMPLATE_EXPR_PARSER_H_
