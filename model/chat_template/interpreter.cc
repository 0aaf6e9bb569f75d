#include "model/chat_template/interpreter.h"

#include <optional>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/status_macros.h"
#include "model/chat_template/runtime.h"

namespace octet::chat_template_internal {
namespace {

enum class Flow { kNext, kBreak, kContinue };

constexpr std::string_view kFunctions[] = {"namespace", "raise_exception", "range", "dict"};

// Names the line once: where the error arose.
absl::Status AtLine(const absl::Status& status, uint32_t line) {
  if (absl::StartsWith(status.message(), "chat template")) return status;
  return absl::Status(status.code(),
                      absl::StrCat("chat template, line ", line, ": ", status.message()));
}

class Interpreter {
 public:
  Interpreter(std::vector<std::pair<std::string, Value>> variables, uint64_t steps_max)
      : budget_(steps_max) {
    scopes_.emplace_back();
    for (auto& [name, value] : variables) scopes_.back()[name] = std::move(value);
  }

  // Namespaces can hold each other in circles: emptying them lets all of them go.
  ~Interpreter() {
    for (const Value& value : namespaces_) value.mutable_dict()->Clear();
  }

  absl::StatusOr<std::string> Run(const Program& program) {
    OCTET_ASSIGN_OR_RETURN(const Flow flow, Body(program.nodes));
    static_cast<void>(flow);
    return std::move(out_);
  }

 private:
  absl::StatusOr<Flow> Body(const NodeList& nodes) {
    for (const auto& node : nodes) {
      absl::StatusOr<Flow> flow = Statement(*node);
      if (!flow.ok()) return AtLine(flow.status(), node->line);
      if (*flow != Flow::kNext) return flow;
    }
    return Flow::kNext;
  }

  absl::Status Emit(std::string_view text) {
    out_ += text;
    if (out_.size() > kTemplateOutputBytesMax) return budget_.ChargeSize(out_.size());
    return budget_.Charge(1 + text.size() / kTemplateBytesPerStep);
  }

  absl::StatusOr<Flow> Statement(const Node& node) {
    OCTET_RETURN_IF_ERROR(budget_.Charge(1));
    switch (node.kind) {
      case Node::Kind::kText:
        OCTET_RETURN_IF_ERROR(Emit(node.text));
        return Flow::kNext;
      case Node::Kind::kOutput: {
        OCTET_ASSIGN_OR_RETURN(const Value value, Eval(*node.expr));
        OCTET_ASSIGN_OR_RETURN(const std::string text, ToString(value, &budget_));
        OCTET_RETURN_IF_ERROR(Emit(text));
        return Flow::kNext;
      }
      case Node::Kind::kIf:
        return If(node);
      case Node::Kind::kFor:
        return For(node);
      case Node::Kind::kSet: {
        OCTET_ASSIGN_OR_RETURN(const Value value, Eval(*node.expr));
        OCTET_RETURN_IF_ERROR(Assign(node, value));
        return Flow::kNext;
      }
      case Node::Kind::kSetBlock:
        return SetBlock(node);
      case Node::Kind::kBlock:
        return Body(node.body);
      case Node::Kind::kBreak:
        return Flow::kBreak;
      case Node::Kind::kContinue:
        return Flow::kContinue;
    }
    return Flow::kNext;
  }

  absl::StatusOr<Flow> If(const Node& node) {
    for (const Node::Branch& branch : node.branches) {
      if (branch.condition != nullptr) {
        OCTET_ASSIGN_OR_RETURN(const Value value, Eval(*branch.condition));
        if (!value.Truth()) continue;
      }
      return Body(branch.body);
    }
    return Flow::kNext;
  }

  absl::StatusOr<Flow> SetBlock(const Node& node) {
    std::string outer;
    std::swap(outer, out_);
    scopes_.emplace_back();
    absl::StatusOr<Flow> flow = Body(node.body);
    scopes_.pop_back();
    std::swap(outer, out_);
    if (!flow.ok()) return flow.status();
    OCTET_RETURN_IF_ERROR(Assign(node, Value::String(std::move(outer))));
    return flow;
  }

  // value to the names of a set or for tag; several take a value's items.
  absl::Status AssignNames(const std::vector<std::string>& names, const Value& value) {
    if (names.size() == 1) {
      scopes_.back()[names[0]] = value;
      return absl::OkStatus();
    }
    OCTET_ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(value, &budget_));
    if (items.size() != names.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat(items.size(), " values for ", names.size(), " names"));
    }
    for (size_t i = 0; i < names.size(); ++i) scopes_.back()[names[i]] = items[i];
    return absl::OkStatus();
  }

  absl::Status Assign(const Node& node, const Value& value) {
    if (node.attribute.empty()) return AssignNames(node.targets, value);
    const Value target = Lookup(node.targets[0]);
    if (!target.is(Value::Type::kNamespace)) {
      return absl::InvalidArgumentError(absl::StrCat("cannot assign to an attribute of ",
                                                     target.TypeName(), ", only of a namespace"));
    }
    target.mutable_dict()->Set(node.attribute, value);
    return absl::OkStatus();
  }

  Value LoopValue(const std::vector<Value>& items, size_t i) const {
    auto loop = std::make_shared<DictData>();
    const int64_t index = static_cast<int64_t>(i);
    const int64_t length = static_cast<int64_t>(items.size());
    loop->Set("index0", Value::Int(index));
    loop->Set("index", Value::Int(index + 1));
    loop->Set("revindex0", Value::Int(length - index - 1));
    loop->Set("revindex", Value::Int(length - index));
    loop->Set("first", Value::Bool(i == 0));
    loop->Set("last", Value::Bool(i + 1 == items.size()));
    loop->Set("length", Value::Int(length));
    loop->Set("previtem", i > 0 ? items[i - 1] : Value::Undefined("loop.previtem"));
    loop->Set("nextitem", i + 1 < items.size() ? items[i + 1] : Value::Undefined("loop.nextitem"));
    return Value::Dict(std::move(loop), Value::Type::kLoop);
  }

  absl::StatusOr<std::vector<Value>> LoopItems(const Node& node) {
    OCTET_ASSIGN_OR_RETURN(const Value value, Eval(*node.expr));
    OCTET_ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(value, &budget_));
    if (node.condition == nullptr) return items;
    std::vector<Value> kept;
    for (Value& item : items) {
      scopes_.emplace_back();
      absl::Status status = AssignNames(node.targets, item);
      Result condition = status.ok() ? Eval(*node.condition) : Result(status);
      scopes_.pop_back();
      if (!condition.ok()) return condition.status();
      if (condition->Truth()) kept.push_back(std::move(item));
    }
    return kept;
  }

  absl::StatusOr<Flow> For(const Node& node) {
    OCTET_ASSIGN_OR_RETURN(const std::vector<Value> items, LoopItems(node));
    for (size_t i = 0; i < items.size(); ++i) {
      OCTET_RETURN_IF_ERROR(budget_.Charge(2));
      scopes_.emplace_back();
      scopes_.back()["loop"] = LoopValue(items, i);
      absl::Status status = AssignNames(node.targets, items[i]);
      absl::StatusOr<Flow> flow = status.ok() ? Body(node.body) : absl::StatusOr<Flow>(status);
      scopes_.pop_back();
      if (!flow.ok()) return flow.status();
      if (*flow == Flow::kBreak) break;
    }
    if (items.empty()) return Body(node.otherwise);
    return Flow::kNext;
  }

  Value Lookup(const std::string& name) const {
    for (size_t i = scopes_.size(); i-- > 0;) {
      auto it = scopes_[i].find(name);
      if (it != scopes_[i].end()) return it->second;
    }
    for (const std::string_view function : kFunctions) {
      if (name == function) return Value::Function(name);
    }
    return Value::Undefined(name);
  }

  Result Eval(const Expr& expr) {
    OCTET_RETURN_IF_ERROR(budget_.Charge(1));
    Result value = EvalKind(expr);
    if (!value.ok()) return AtLine(value.status(), expr.line);
    if (value->depth() > kTemplateDepthMax) {
      return AtLine(absl::ResourceExhaustedError(
                        absl::StrCat("a value is nested deeper than ", kTemplateDepthMax)),
                    expr.line);
    }
    return value;
  }

  Result EvalKind(const Expr& expr) {
    switch (expr.kind) {
      case Expr::Kind::kLiteral:
        return expr.literal;
      case Expr::Kind::kName:
        return Lookup(expr.text);
      case Expr::Kind::kList:
        return EvalList(expr);
      case Expr::Kind::kDict:
        return EvalDict(expr);
      case Expr::Kind::kAttribute: {
        OCTET_ASSIGN_OR_RETURN(const Value object, Eval(*expr.args[0]));
        return GetAttribute(object, expr.text);
      }
      case Expr::Kind::kItem: {
        OCTET_ASSIGN_OR_RETURN(const Value object, Eval(*expr.args[0]));
        OCTET_ASSIGN_OR_RETURN(const Value key, Eval(*expr.args[1]));
        return GetItem(object, key);
      }
      case Expr::Kind::kSlice:
        return EvalSlice(expr);
      case Expr::Kind::kCall:
        return EvalCall(expr);
      case Expr::Kind::kFilter: {
        OCTET_ASSIGN_OR_RETURN(const Value value, Eval(*expr.args[0]));
        OCTET_ASSIGN_OR_RETURN(const Args args, EvalArgs(expr));
        return CallFilter(expr.text, value, args, &budget_);
      }
      case Expr::Kind::kTest: {
        OCTET_ASSIGN_OR_RETURN(const Value value, Eval(*expr.args[0]));
        OCTET_ASSIGN_OR_RETURN(const Args args, EvalArgs(expr));
        OCTET_ASSIGN_OR_RETURN(const bool passes, CallTest(expr.text, value, args, &budget_));
        return Value::Bool(passes);
      }
      case Expr::Kind::kUnary: {
        OCTET_ASSIGN_OR_RETURN(const Value value, Eval(*expr.args[0]));
        return UnaryOp(expr.text, value);
      }
      case Expr::Kind::kBinary: {
        OCTET_ASSIGN_OR_RETURN(const Value left, Eval(*expr.args[0]));
        OCTET_ASSIGN_OR_RETURN(const Value right, Eval(*expr.args[1]));
        return BinaryOp(expr.text, left, right, &budget_);
      }
      case Expr::Kind::kAnd:
      case Expr::Kind::kOr: {
        OCTET_ASSIGN_OR_RETURN(Value left, Eval(*expr.args[0]));
        if (left.Truth() == (expr.kind == Expr::Kind::kOr)) return left;
        return Eval(*expr.args[1]);
      }
      case Expr::Kind::kIf: {
        OCTET_ASSIGN_OR_RETURN(const Value condition, Eval(*expr.args[1]));
        if (condition.Truth()) return Eval(*expr.args[0]);
        return expr.args[2] == nullptr ? Value::Undefined("if without else") : Eval(*expr.args[2]);
      }
    }
    return Value::None();
  }

  Result EvalList(const Expr& expr) {
    std::vector<Value> items;
    for (const ExprPtr& arg : expr.args) {
      OCTET_ASSIGN_OR_RETURN(Value item, Eval(*arg));
      items.push_back(std::move(item));
    }
    return expr.text.empty() ? Value::List(std::move(items)) : Value::Tuple(std::move(items));
  }

  Result EvalDict(const Expr& expr) {
    auto dict = std::make_shared<DictData>();
    for (size_t i = 0; i < expr.args.size(); i += 2) {
      OCTET_ASSIGN_OR_RETURN(const Value key, Eval(*expr.args[i]));
      OCTET_ASSIGN_OR_RETURN(Value value, Eval(*expr.args[i + 1]));
      if (!key.is_string()) {
        return absl::UnimplementedError(
            absl::StrCat("a mapping with ", key.TypeName(), " as a key is not supported"));
      }
      dict->Set(key.text(), std::move(value));
    }
    return Value::Dict(std::move(dict));
  }

  Result EvalSlice(const Expr& expr) {
    OCTET_ASSIGN_OR_RETURN(const Value object, Eval(*expr.args[0]));
    std::optional<int64_t> bounds[3];
    for (int i = 0; i < 3; ++i) {
      if (expr.args[i + 1] == nullptr) continue;
      OCTET_ASSIGN_OR_RETURN(const Value bound, Eval(*expr.args[i + 1]));
      if (bound.is_none()) continue;
      if (!bound.is_integer()) {
        return absl::InvalidArgumentError(
            absl::StrCat("a slice needs integers, not ", bound.TypeName()));
      }
      bounds[i] = bound.integer();
    }
    return Slice(object, bounds[0], bounds[1], bounds[2], &budget_);
  }

  // The arguments after args[0].
  absl::StatusOr<Args> EvalArgs(const Expr& expr) {
    Args args;
    for (size_t i = 1; i < expr.args.size(); ++i) {
      OCTET_ASSIGN_OR_RETURN(Value value, Eval(*expr.args[i]));
      args.positional.push_back(std::move(value));
    }
    for (const auto& [name, arg] : expr.named) {
      OCTET_ASSIGN_OR_RETURN(Value value, Eval(*arg));
      args.named.emplace_back(name, std::move(value));
    }
    return args;
  }

  Result EvalCall(const Expr& expr) {
    const Expr& callee = *expr.args[0];
    if (callee.kind == Expr::Kind::kAttribute) {
      OCTET_ASSIGN_OR_RETURN(const Value object, Eval(*callee.args[0]));
      if (object.is_undefined()) return GetAttribute(object, callee.text);
      OCTET_ASSIGN_OR_RETURN(const Args args, EvalArgs(expr));
      if (HasMethod(object, callee.text)) return CallMethod(object, callee.text, args, &budget_);
      return absl::UnimplementedError(absl::StrCat("the method ", callee.text.substr(0, 40), " of ",
                                                   object.TypeName(), " is not supported"));
    }
    OCTET_ASSIGN_OR_RETURN(const Value function, Eval(callee));
    OCTET_ASSIGN_OR_RETURN(const Args args, EvalArgs(expr));
    if (!function.is(Value::Type::kFunction)) {
      return absl::InvalidArgumentError(absl::StrCat(function.TypeName(), " cannot be called"));
    }
    return CallFunction(function.text(), args);
  }

  Result CallFunction(const std::string& name, const Args& args) {
    if (name == "raise_exception") {
      std::string message;
      if (const Value* given = args.Get(0, "message"); given != nullptr) {
        OCTET_ASSIGN_OR_RETURN(message, ToString(*given, &budget_));
      }
      return absl::InvalidArgumentError(
          absl::StrCat("the template refuses this chat: ", message.substr(0, 500)));
    }
    if (name == "range") return Range(args);
    auto dict = std::make_shared<DictData>();
    if (!args.positional.empty() && args.positional[0].is_dict()) {
      OCTET_RETURN_IF_ERROR(budget_.Charge(args.positional[0].dict().entries().size()));
      for (const auto& [key, value] : args.positional[0].dict().entries()) dict->Set(key, value);
    } else if (!args.positional.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(name, "() needs named arguments"));
    }
    for (const auto& [key, value] : args.named) dict->Set(key, value);
    if (name == "dict") return Value::Dict(std::move(dict));
    namespaces_.push_back(Value::Dict(std::move(dict), Value::Type::kNamespace));
    return namespaces_.back();
  }

  Result Range(const Args& args) {
    int64_t bounds[3] = {0, 0, 1};
    const size_t count = args.positional.size();
    if (count < 1 || count > 3) {
      return absl::InvalidArgumentError("range() needs one to three integers");
    }
    for (size_t i = 0; i < count; ++i) {
      const Value& value = args.positional[i];
      if (!value.is_integer() || value.integer() > INT32_MAX || value.integer() < INT32_MIN) {
        return absl::InvalidArgumentError("range() needs integers of 32 bits");
      }
      bounds[count == 1 ? 1 : i] = value.integer();
    }
    if (bounds[2] == 0) return absl::InvalidArgumentError("range() with a step of 0");
    std::vector<Value> items;
    for (int64_t i = bounds[0]; bounds[2] > 0 ? i < bounds[1] : i > bounds[1]; i += bounds[2]) {
      OCTET_RETURN_IF_ERROR(budget_.Charge(1));
      items.push_back(Value::Int(i));
    }
    return Value::List(std::move(items));
  }

  Budget budget_;
  std::string out_;
  std::vector<absl::flat_hash_map<std::string, Value>> scopes_;
  std::vector<Value> namespaces_;
};

}  // namespace

absl::StatusOr<std::string> Run(const Program& program,
                                std::vector<std::pair<std::string, Value>> variables,
                                uint64_t steps_max) {
  return Interpreter(std::move(variables), steps_max).Run(program);
}

}  // namespace octet::chat_template_internal
