#include "model/chat_template/expr_parser.h"

#include <algorithm>
#include <charconv>

#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/status_macros.h"

namespace octet::chat_template_internal {
namespace {

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

std::string Describe(const Token& token) {
  switch (token.kind) {
    case Token::Kind::kText:
    case Token::Kind::kEnd:
      return "the end";
    case Token::Kind::kBlockBegin:
      return "{%";
    case Token::Kind::kBlockEnd:
      return "%}";
    case Token::Kind::kOutputBegin:
      return "{{";
    case Token::Kind::kOutputEnd:
      return "}}";
    default:
      return absl::StrCat("\"", token.text.substr(0, 40), "\"");
  }
}

}  // namespace

bool ExprParser::AcceptOperator(std::string_view text) {
  if (!IsOperator(text)) return false;
  Take();
  return true;
}

bool ExprParser::AcceptName(std::string_view text) {
  if (!IsName(text)) return false;
  Take();
  return true;
}

absl::Status ExprParser::ExpectOperator(std::string_view text) {
  if (AcceptOperator(text)) return absl::OkStatus();
  return Error(absl::StrCat("expected \"", View(text), "\", found ", Describe(Peek())));
}

absl::Status ExprParser::ExpectName(std::string_view text) {
  if (AcceptName(text)) return absl::OkStatus();
  return Error(absl::StrCat("expected \"", View(text), "\", found ", Describe(Peek())));
}

absl::Status ExprParser::Expect(Token::Kind kind, std::string_view what) {
  if (Peek().kind != kind) {
    return Error(absl::StrCat("expected ", View(what), ", found ", Describe(Peek())));
  }
  Take();
  return absl::OkStatus();
}

absl::Status ExprParser::Error(std::string_view what) const {
  return absl::InvalidArgumentError(
      absl::StrCat("chat template, line ", Peek().line, ": ", View(what)));
}

absl::Status ExprParser::Unsupported(std::string_view what) const {
  return absl::UnimplementedError(
      absl::StrCat("chat template, line ", Peek().line, ": ", View(what), " is not supported"));
}

ExprPtr ExprParser::New(Expr::Kind kind, std::string text) const {
  auto expr = std::make_unique<Expr>();
  expr->kind = kind;
  expr->text = std::move(text);
  expr->line = Peek().line;
  return expr;
}

absl::StatusOr<ExprPtr> ExprParser::Finish(ExprPtr expr) const {
  for (const ExprPtr& arg : expr->args) {
    if (arg != nullptr) expr->height = std::max(expr->height, arg->height + 1);
  }
  for (const auto& [name, arg] : expr->named) {
    expr->height = std::max(expr->height, arg->height + 1);
  }
  if (expr->height > kTemplateExpressionHeightMax) {
    return Error(absl::StrCat("an expression has more than ", kTemplateExpressionHeightMax,
                              " operators in a chain"));
  }
  return expr;
}

absl::StatusOr<ExprPtr> ExprParser::Binary(Expr::Kind kind, std::string op, ExprPtr left,
                                           ExprPtr right) const {
  ExprPtr expr = New(kind, std::move(op));
  expr->args.push_back(std::move(left));
  expr->args.push_back(std::move(right));
  return Finish(std::move(expr));
}

absl::StatusOr<ExprPtr> ExprParser::Chain(std::initializer_list<std::string_view> ops,
                                          Result (ExprParser::*next)()) {
  OCTET_ASSIGN_OR_RETURN(ExprPtr left, (this->*next)());
  while (true) {
    const auto op = std::find_if(ops.begin(), ops.end(),
                                 [&](std::string_view text) { return IsOperator(text); });
    if (op == ops.end()) return left;
    Take();
    OCTET_ASSIGN_OR_RETURN(ExprPtr right, (this->*next)());
    OCTET_ASSIGN_OR_RETURN(
        left, Binary(Expr::Kind::kBinary, std::string(*op), std::move(left), std::move(right)));
  }
}

absl::StatusOr<ExprPtr> ExprParser::Expression(bool without_if) {
  if (++depth_ > kTemplateDepthMax) {
    return Error(absl::StrCat("nested deeper than ", kTemplateDepthMax));
  }
  OCTET_ASSIGN_OR_RETURN(ExprPtr expr, Or());
  while (!without_if && AcceptName("if")) {
    ExprPtr choice = New(Expr::Kind::kIf);
    choice->args.push_back(std::move(expr));
    OCTET_ASSIGN_OR_RETURN(ExprPtr condition, Or());
    choice->args.push_back(std::move(condition));
    ExprPtr otherwise;
    if (AcceptName("else")) {
      OCTET_ASSIGN_OR_RETURN(otherwise, Expression());
    }
    choice->args.push_back(std::move(otherwise));
    OCTET_ASSIGN_OR_RETURN(expr, Finish(std::move(choice)));
  }
  --depth_;
  return expr;
}

absl::StatusOr<ExprPtr> ExprParser::TupleOrExpression(bool without_if) {
  OCTET_ASSIGN_OR_RETURN(ExprPtr first, Expression(without_if));
  if (!IsOperator(",")) return first;
  ExprPtr list = New(Expr::Kind::kList, "tuple");
  list->args.push_back(std::move(first));
  while (AcceptOperator(",")) {
    if (Peek().kind == Token::Kind::kBlockEnd || Peek().kind == Token::Kind::kOutputEnd) break;
    OCTET_ASSIGN_OR_RETURN(ExprPtr item, Expression(without_if));
    list->args.push_back(std::move(item));
  }
  return Finish(std::move(list));
}

absl::StatusOr<ExprPtr> ExprParser::Or() {
  OCTET_ASSIGN_OR_RETURN(ExprPtr left, And());
  while (AcceptName("or")) {
    OCTET_ASSIGN_OR_RETURN(ExprPtr right, And());
    OCTET_ASSIGN_OR_RETURN(left, Binary(Expr::Kind::kOr, "or", std::move(left), std::move(right)));
  }
  return left;
}

absl::StatusOr<ExprPtr> ExprParser::And() {
  OCTET_ASSIGN_OR_RETURN(ExprPtr left, Not());
  while (AcceptName("and")) {
    OCTET_ASSIGN_OR_RETURN(ExprPtr right, Not());
    OCTET_ASSIGN_OR_RETURN(left,
                           Binary(Expr::Kind::kAnd, "and", std::move(left), std::move(right)));
  }
  return left;
}

absl::StatusOr<ExprPtr> ExprParser::Not() {
  uint32_t count = 0;
  while (AcceptName("not")) ++count;
  OCTET_ASSIGN_OR_RETURN(ExprPtr expr, Compare());
  for (; count > 0; --count) {
    ExprPtr inverse = New(Expr::Kind::kUnary, "not");
    inverse->args.push_back(std::move(expr));
    OCTET_ASSIGN_OR_RETURN(expr, Finish(std::move(inverse)));
  }
  return expr;
}

// a < b < c means a < b and b < c, as in Python; templates never chain, so that is refused.
absl::StatusOr<ExprPtr> ExprParser::Compare() {
  OCTET_ASSIGN_OR_RETURN(ExprPtr left, Sum());
  std::string op;
  for (const char* candidate : {"==", "!=", "<", "<=", ">", ">="}) {
    if (IsOperator(candidate)) op = candidate;
  }
  if (!op.empty()) {
    Take();
  } else if (AcceptName("in")) {
    op = "in";
  } else if (IsName("not") && (*tokens_)[at_ + 1].kind == Token::Kind::kName &&
             (*tokens_)[at_ + 1].text == "in") {
    Take();
    Take();
    op = "not in";
  } else {
    return left;
  }
  OCTET_ASSIGN_OR_RETURN(ExprPtr right, Sum());
  for (const char* candidate : {"==", "!=", "<", "<=", ">", ">="}) {
    if (IsOperator(candidate)) return Unsupported("a chain of comparisons");
  }
  return Binary(Expr::Kind::kBinary, op, std::move(left), std::move(right));
}

absl::StatusOr<ExprPtr> ExprParser::Sum() { return Chain({"+", "-"}, &ExprParser::Concat); }
absl::StatusOr<ExprPtr> ExprParser::Concat() { return Chain({"~"}, &ExprParser::Product); }
absl::StatusOr<ExprPtr> ExprParser::Product() {
  return Chain({"*", "//", "/", "%"}, &ExprParser::Power);
}
absl::StatusOr<ExprPtr> ExprParser::Power() { return Chain({"**"}, &ExprParser::Unary); }
absl::StatusOr<ExprPtr> ExprParser::Unary() { return UnaryWith(true); }

absl::StatusOr<ExprPtr> ExprParser::UnaryWith(bool with_filters) {
  ExprPtr expr;
  if (IsOperator("-") || IsOperator("+")) {
    if (++depth_ > kTemplateDepthMax) {
      return Error(absl::StrCat("nested deeper than ", kTemplateDepthMax));
    }
    expr = New(Expr::Kind::kUnary, Take().text);
    OCTET_ASSIGN_OR_RETURN(ExprPtr operand, UnaryWith(false));
    --depth_;
    expr->args.push_back(std::move(operand));
    OCTET_ASSIGN_OR_RETURN(expr, Finish(std::move(expr)));
  } else {
    OCTET_ASSIGN_OR_RETURN(expr, Primary());
    OCTET_ASSIGN_OR_RETURN(expr, Postfix(std::move(expr)));
  }
  return with_filters ? Filters(std::move(expr)) : std::move(expr);
}

absl::StatusOr<ExprPtr> ExprParser::Primary() {
  const Token& token = Peek();
  if (token.kind == Token::Kind::kInt || token.kind == Token::Kind::kFloat) return Number();
  if (token.kind == Token::Kind::kString) {
    ExprPtr expr = New(Expr::Kind::kLiteral);
    std::string text;
    while (Peek().kind == Token::Kind::kString) text += Take().text;
    expr->literal = Value::String(std::move(text));
    return expr;
  }
  if (token.kind == Token::Kind::kName) {
    ExprPtr expr = New(Expr::Kind::kLiteral);
    const std::string name = Take().text;
    if (name == "true" || name == "True") {
      expr->literal = Value::Bool(true);
    } else if (name == "false" || name == "False") {
      expr->literal = Value::Bool(false);
    } else if (name == "none" || name == "None") {
      expr->literal = Value::None();
    } else {
      expr->kind = Expr::Kind::kName;
      expr->text = name;
    }
    return expr;
  }
  if (AcceptOperator("(")) return Parenthesized();
  if (AcceptOperator("[")) return ListLiteral();
  if (AcceptOperator("{")) return DictLiteral();
  return Error(absl::StrCat("expected an expression, found ", Describe(token)));
}

absl::StatusOr<ExprPtr> ExprParser::Number() {
  ExprPtr expr = New(Expr::Kind::kLiteral);
  const Token token = Take();
  const char* begin = token.text.data();
  const char* end = begin + token.text.size();
  int64_t integer = 0;
  double number = 0;
  const bool is_int = token.kind == Token::Kind::kInt;
  const auto parsed =
      is_int ? std::from_chars(begin, end, integer) : std::from_chars(begin, end, number);
  if (parsed.ec != std::errc() || parsed.ptr != end) {
    return Error(absl::StrCat("the number ", token.text, " is out of range"));
  }
  expr->literal = is_int ? Value::Int(integer) : Value::Float(number);
  return expr;
}

absl::StatusOr<ExprPtr> ExprParser::Parenthesized() {
  ExprPtr list = New(Expr::Kind::kList, "tuple");
  bool comma = false;
  while (!AcceptOperator(")")) {
    if (!list->args.empty()) {
      OCTET_RETURN_IF_ERROR(ExpectOperator(","));
      comma = true;
      if (AcceptOperator(")")) break;
    }
    OCTET_ASSIGN_OR_RETURN(ExprPtr item, Expression());
    list->args.push_back(std::move(item));
  }
  if (list->args.size() == 1 && !comma) return std::move(list->args[0]);
  return Finish(std::move(list));
}

absl::StatusOr<ExprPtr> ExprParser::ListLiteral() {
  ExprPtr list = New(Expr::Kind::kList);
  while (!AcceptOperator("]")) {
    if (!list->args.empty()) {
      OCTET_RETURN_IF_ERROR(ExpectOperator(","));
      if (AcceptOperator("]")) break;
    }
    OCTET_ASSIGN_OR_RETURN(ExprPtr item, Expression());
    list->args.push_back(std::move(item));
  }
  return Finish(std::move(list));
}

absl::StatusOr<ExprPtr> ExprParser::DictLiteral() {
  ExprPtr dict = New(Expr::Kind::kDict);
  while (!AcceptOperator("}")) {
    if (!dict->args.empty()) {
      OCTET_RETURN_IF_ERROR(ExpectOperator(","));
      if (AcceptOperator("}")) break;
    }
    OCTET_ASSIGN_OR_RETURN(ExprPtr key, Expression());
    OCTET_RETURN_IF_ERROR(ExpectOperator(":"));
    OCTET_ASSIGN_OR_RETURN(ExprPtr value, Expression());
    dict->args.push_back(std::move(key));
    dict->args.push_back(std::move(value));
  }
  return Finish(std::move(dict));
}

absl::StatusOr<ExprPtr> ExprParser::Postfix(ExprPtr expr) {
  while (true) {
    if (AcceptOperator(".")) {
      if (Peek().kind != Token::Kind::kName) return Error("expected a name after \".\"");
      ExprPtr attribute = New(Expr::Kind::kAttribute, Take().text);
      attribute->args.push_back(std::move(expr));
      OCTET_ASSIGN_OR_RETURN(expr, Finish(std::move(attribute)));
    } else if (AcceptOperator("[")) {
      OCTET_ASSIGN_OR_RETURN(expr, Subscript(std::move(expr)));
    } else if (AcceptOperator("(")) {
      ExprPtr call = New(Expr::Kind::kCall);
      call->args.push_back(std::move(expr));
      OCTET_RETURN_IF_ERROR(Arguments(call.get()));
      OCTET_ASSIGN_OR_RETURN(expr, Finish(std::move(call)));
    } else {
      return expr;
    }
  }
}

absl::StatusOr<ExprPtr> ExprParser::Subscript(ExprPtr expr) {
  ExprPtr item = New(Expr::Kind::kItem);
  item->args.push_back(std::move(expr));
  for (int part = 0; part < 3; ++part) {
    ExprPtr bound;
    if (!IsOperator(":") && !IsOperator("]")) {
      OCTET_ASSIGN_OR_RETURN(bound, Expression());
    }
    item->args.push_back(std::move(bound));
    if (!AcceptOperator(":")) break;
    item->kind = Expr::Kind::kSlice;
  }
  if (item->kind == Expr::Kind::kItem && item->args[1] == nullptr)
    return Error("[] needs an index");
  if (item->kind == Expr::Kind::kSlice) item->args.resize(4);
  OCTET_RETURN_IF_ERROR(ExpectOperator("]"));
  return Finish(std::move(item));
}

absl::Status ExprParser::Arguments(Expr* call) {
  bool first = true;
  while (!AcceptOperator(")")) {
    if (!first) {
      OCTET_RETURN_IF_ERROR(ExpectOperator(","));
      if (AcceptOperator(")")) break;
    }
    first = false;
    const Token& next = (*tokens_)[std::min(at_ + 1, tokens_->size() - 1)];
    std::string name;
    if (Peek().kind == Token::Kind::kName && next.kind == Token::Kind::kOperator &&
        next.text == "=") {
      name = Take().text;
      Take();
    }
    OCTET_ASSIGN_OR_RETURN(ExprPtr value, Expression());
    if (!name.empty()) {
      call->named.emplace_back(std::move(name), std::move(value));
    } else if (!call->named.empty()) {
      return Error("a positional argument after a named one");
    } else {
      call->args.push_back(std::move(value));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<ExprPtr> ExprParser::Filters(ExprPtr expr) {
  while (true) {
    if (AcceptOperator("|")) {
      if (Peek().kind != Token::Kind::kName) return Error("expected a filter after \"|\"");
      ExprPtr filter = New(Expr::Kind::kFilter, Peek().text);
      if (!IsFilter(Peek().text)) return Unsupported(absl::StrCat("the filter ", Peek().text));
      Take();
      filter->args.push_back(std::move(expr));
      if (AcceptOperator("(")) OCTET_RETURN_IF_ERROR(Arguments(filter.get()));
      OCTET_ASSIGN_OR_RETURN(expr, Finish(std::move(filter)));
    } else if (AcceptName("is")) {
      OCTET_ASSIGN_OR_RETURN(expr, Test(std::move(expr)));
    } else if (IsOperator("(") || IsOperator("[") || IsOperator(".")) {
      OCTET_ASSIGN_OR_RETURN(expr, Postfix(std::move(expr)));
    } else {
      return expr;
    }
  }
}

absl::StatusOr<ExprPtr> ExprParser::Test(ExprPtr expr) {
  const bool negated = AcceptName("not");
  if (Peek().kind != Token::Kind::kName) return Error("expected a test after \"is\"");
  if (!IsTest(Peek().text)) return Unsupported(absl::StrCat("the test ", Peek().text));
  ExprPtr test = New(Expr::Kind::kTest, Take().text);
  test->args.push_back(std::move(expr));
  const Token& next = Peek();
  const bool value = next.kind == Token::Kind::kString || next.kind == Token::Kind::kInt ||
                     next.kind == Token::Kind::kFloat || IsOperator("[") || IsOperator("{") ||
                     (next.kind == Token::Kind::kName && next.text != "else" && next.text != "or" &&
                      next.text != "and" && next.text != "if" && next.text != "is" &&
                      next.text != "not" && next.text != "in");
  if (AcceptOperator("(")) {
    OCTET_RETURN_IF_ERROR(Arguments(test.get()));
  } else if (value) {
    OCTET_ASSIGN_OR_RETURN(ExprPtr operand, Primary());
    OCTET_ASSIGN_OR_RETURN(operand, Postfix(std::move(operand)));
    test->args.push_back(std::move(operand));
  }
  OCTET_ASSIGN_OR_RETURN(test, Finish(std::move(test)));
  if (!negated) return test;
  ExprPtr inverse = New(Expr::Kind::kUnary, "not");
  inverse->args.push_back(std::move(test));
  return Finish(std::move(inverse));
}

}  // namespace octet::chat_template_internal
