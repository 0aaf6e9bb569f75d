#include "model/chat_template/parser.h"

#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/status_macros.h"
#include "model/chat_template/expr_parser.h"

namespace octet::chat_template_internal {
namespace {

using NodePtr = std::unique_ptr<Node>;

class Parser {
 public:
  explicit Parser(const std::vector<Token>* tokens) : in_(tokens) {}

  absl::StatusOr<std::unique_ptr<Program>> Run() {
    auto program = std::make_unique<Program>();
    OCTET_ASSIGN_OR_RETURN(const std::string end, Body({}, &program->nodes));
    static_cast<void>(end);
    return program;
  }

 private:
  NodePtr New(Node::Kind kind) const {
    auto node = std::make_unique<Node>();
    node->kind = kind;
    node->line = in_.Peek().line;
    return node;
  }

  // Nodes up to a tag named in ends, whose name is taken (its "%}" is not) and returned. Without
  // ends: up to the end of the template.
  absl::StatusOr<std::string> Body(const std::vector<std::string>& ends, NodeList* nodes) {
    if (++depth_ > kTemplateDepthMax) {
      return in_.Error(absl::StrCat("blocks are nested deeper than ", kTemplateDepthMax));
    }
    while (true) {
      const Token token = in_.Take();
      if (token.kind == Token::Kind::kEnd) {
        if (ends.empty()) return std::string();
        return in_.Error(absl::StrCat("expected {% ", ends.back(), " %}, found the end"));
      }
      if (token.kind == Token::Kind::kText) {
        nodes->push_back(New(Node::Kind::kText));
        nodes->back()->text = token.text;
      } else if (token.kind == Token::Kind::kOutputBegin) {
        NodePtr node = New(Node::Kind::kOutput);
        OCTET_ASSIGN_OR_RETURN(node->expr, in_.TupleOrExpression());
        OCTET_RETURN_IF_ERROR(in_.Expect(Token::Kind::kOutputEnd, "}}"));
        nodes->push_back(std::move(node));
      } else {
        if (in_.Peek().kind != Token::Kind::kName) return in_.Error("expected the name of a tag");
        for (const std::string& end : ends) {
          if (!in_.AcceptName(end)) continue;
          --depth_;
          return end;
        }
        OCTET_ASSIGN_OR_RETURN(NodePtr node, Statement());
        nodes->push_back(std::move(node));
      }
    }
  }

  absl::Status EndTag() { return in_.Expect(Token::Kind::kBlockEnd, "%}"); }

  absl::StatusOr<NodePtr> Statement() {
    if (in_.AcceptName("if")) return If();
    if (in_.AcceptName("for")) return For();
    if (in_.AcceptName("set")) return Set();
    if (in_.IsName("break") || in_.IsName("continue")) {
      NodePtr node = New(in_.IsName("break") ? Node::Kind::kBreak : Node::Kind::kContinue);
      if (loops_ == 0) return in_.Error("break and continue belong in a loop");
      in_.Take();
      OCTET_RETURN_IF_ERROR(EndTag());
      return node;
    }
    // transformers marks the assistant's words with it; the text stays.
    if (in_.AcceptName("generation")) {
      NodePtr node = New(Node::Kind::kBlock);
      OCTET_RETURN_IF_ERROR(EndTag());
      OCTET_RETURN_IF_ERROR(Body({"endgeneration"}, &node->body).status());
      OCTET_RETURN_IF_ERROR(EndTag());
      return node;
    }
    const std::string& name = in_.Peek().text;
    if (name.substr(0, 3) == "end" || name == "else" || name == "elif") {
      return in_.Error(absl::StrCat("unexpected {% ", name.substr(0, 40), " %}"));
    }
    return in_.Unsupported(absl::StrCat("the tag ", name.substr(0, 40)));
  }

  absl::StatusOr<NodePtr> If() {
    NodePtr node = New(Node::Kind::kIf);
    std::string tag = "if";
    while (tag != "endif") {
      const bool last = tag == "else";
      node->branches.emplace_back();
      if (!last) {
        OCTET_ASSIGN_OR_RETURN(node->branches.back().condition, in_.TupleOrExpression());
      }
      OCTET_RETURN_IF_ERROR(EndTag());
      const std::vector<std::string> ends = last
                                                ? std::vector<std::string>{"endif"}
                                                : std::vector<std::string>{"elif", "else", "endif"};
      OCTET_ASSIGN_OR_RETURN(tag, Body(ends, &node->branches.back().body));
    }
    OCTET_RETURN_IF_ERROR(EndTag());
    return node;
  }

  absl::Status Targets(Node* node) {
    const bool parenthesis = in_.AcceptOperator("(");
    do {
      if (in_.Peek().kind != Token::Kind::kName) return in_.Error("expected a name to assign to");
      node->targets.push_back(in_.Take().text);
    } while (in_.AcceptOperator(","));
    return parenthesis ? in_.ExpectOperator(")") : absl::OkStatus();
  }

  absl::StatusOr<NodePtr> For() {
    NodePtr node = New(Node::Kind::kFor);
    OCTET_RETURN_IF_ERROR(Targets(node.get()));
    OCTET_RETURN_IF_ERROR(in_.ExpectName("in"));
    OCTET_ASSIGN_OR_RETURN(node->expr, in_.TupleOrExpression(/*without_if=*/true));
    if (in_.AcceptName("if")) {
      OCTET_ASSIGN_OR_RETURN(node->condition, in_.Expression());
    }
    if (in_.IsName("recursive")) return in_.Unsupported("a recursive loop");
    OCTET_RETURN_IF_ERROR(EndTag());
    ++loops_;
    OCTET_ASSIGN_OR_RETURN(const std::string tag, Body({"else", "endfor"}, &node->body));
    --loops_;
    OCTET_RETURN_IF_ERROR(EndTag());
    if (tag == "else") {
      OCTET_RETURN_IF_ERROR(Body({"endfor"}, &node->otherwise).status());
      OCTET_RETURN_IF_ERROR(EndTag());
    }
    return node;
  }

  absl::StatusOr<NodePtr> Set() {
    NodePtr node = New(Node::Kind::kSet);
    OCTET_RETURN_IF_ERROR(Targets(node.get()));
    if (in_.AcceptOperator(".")) {
      if (in_.Peek().kind != Token::Kind::kName || node->targets.size() != 1) {
        return in_.Error("expected one name of a namespace to assign to");
      }
      node->attribute = in_.Take().text;
    }
    if (in_.AcceptOperator("=")) {
      OCTET_ASSIGN_OR_RETURN(node->expr, in_.TupleOrExpression());
      OCTET_RETURN_IF_ERROR(EndTag());
      return node;
    }
    if (in_.IsOperator("|")) return in_.Unsupported("a filter on a block set");
    if (node->targets.size() != 1) return in_.Error("a block set assigns to one name");
    node->kind = Node::Kind::kSetBlock;
    OCTET_RETURN_IF_ERROR(EndTag());
    OCTET_RETURN_IF_ERROR(Body({"endset"}, &node->body).status());
    OCTET_RETURN_IF_ERROR(EndTag());
    return node;
  }

  ExprParser in_;
  uint32_t depth_ = 0;
  uint32_t loops_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Program>> ParseTemplate(const std::vector<Token>& tokens) {
  return Parser(&tokens).Run();
}

}  // namespace octet::chat_template_internal
