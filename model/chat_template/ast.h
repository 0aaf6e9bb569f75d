// The tree of a parsed template.
#ifndef OCTET_MODEL_CHAT_TEMPLATE_AST_H_
#define OCTET_MODEL_CHAT_TEMPLATE_AST_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "model/chat_template/value.h"

namespace octet::chat_template_internal {

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

struct Expr {
  enum class Kind : uint8_t {
    kLiteral,    // literal
    kName,       // text
    kList,       // args; text "tuple": written with parentheses or commas alone
    kDict,       // args: key, value, key, value, ...
    kAttribute,  // args[0] . text
    kItem,       // args[0] [ args[1] ]
    kSlice,      // args[0] [ args[1] : args[2] : args[3] ], nullptr where left out
    kCall,       // args[0] ( rest, named )
    kFilter,     // args[0] | text ( rest, named )
    kTest,       // args[0] is text ( rest )
    kUnary,      // text: "-", "+" or "not"
    kBinary,     // text: "+", "-", "*", "/", "//", "%", "**", "~", "==", ..., "in", "not in"
    kAnd,
    kOr,
    kIf,  // args[0] if args[1] else args[2] (nullptr: undefined)
  };
  Kind kind = Kind::kLiteral;
  uint32_t line = 0;
  uint32_t height = 1;
  std::string text;
  Value literal;
  std::vector<ExprPtr> args;
  std::vector<std::pair<std::string, ExprPtr>> named;
};

struct Node;
using NodeList = std::vector<std::unique_ptr<Node>>;

struct Node {
  enum class Kind : uint8_t {
    kText,      // text
    kOutput,    // expr
    kIf,        // branches
    kFor,       // targets in expr, if condition: body, else otherwise
    kSet,       // targets (with attribute, for a namespace) = expr
    kSetBlock,  // targets[0] = output of body
    kBlock,     // body
    kBreak,
    kContinue,
  };
  struct Branch {
    ExprPtr condition;  // nullptr: else
    NodeList body;
  };
  Kind kind = Kind::kText;
  uint32_t line = 0;
  std::string text;
  std::vector<std::string> targets;
  std::string attribute;
  ExprPtr expr;
  ExprPtr condition;
  std::vector<Branch> branches;
  NodeList body;
  NodeList otherwise;
};

struct Program {
  NodeList nodes;
};

}  // namespace octet::chat_template_internal

#endif  // OCTET_MODEL_CHAT_TEMPLATE_AST_H_
