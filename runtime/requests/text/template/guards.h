// What the interpreter undoes when a block is left, by whatever way.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "runtime/requests/text/template/interpreter.h"

namespace penstock::jinja {

/// Sets a variable, and sets it back.
template <typename T>
class Restore {
 public:
  Restore(T& variable, T value) : variable_(variable), old_(std::exchange(variable, std::move(value))) {}
  ~Restore() { variable_ = std::move(old_); }
  Restore(const Restore&) = delete;
  Restore& operator=(const Restore&) = delete;

 private:
  T& variable_;
  T old_;
};

/// Bounds how deep evaluation nests, far below what the stack of a thread holds.
class Interpreter::Deeper {
 public:
  explicit Deeper(Interpreter& run) : run_(run) {
    if (run_.depth_ >= 1000) run_.fail("the template calls itself, or nests, too deep.");
    ++run_.depth_;
  }
  ~Deeper() { --run_.depth_; }
  Deeper(const Deeper&) = delete;
  Deeper& operator=(const Deeper&) = delete;

 private:
  Interpreter& run_;
};

/// A new scope within `outer`.
class Interpreter::InScope {
 public:
  InScope(Interpreter& run, Scope* outer)
      : run_(run), before_(run.scope_), scope_(std::make_unique<Scope>(outer)) {
    run_.scope_ = scope_.get();
  }
  ~InScope() {
    run_.scope_ = before_;
    if (scope_->captured) run_.captured_.push_back(std::move(scope_));
  }
  InScope(const InScope&) = delete;
  InScope& operator=(const InScope&) = delete;

 private:
  Interpreter& run_;
  Scope* before_;
  std::unique_ptr<Scope> scope_;
};

}  // namespace penstock::jinja
