// Errors carry where they were raised. They are thrown at the border of a floor and turned into a message and
// an exit status in one place, launch/main.cpp.
#pragma once

#include <stdexcept>
#include <string>

namespace penstock {

/// What a failed job exits with. Documented in docs/formats.md.
enum class ExitStatus : int {
  success = 0,
  runtime_failure = 1,  ///< something broke while the job ran (a rank died, a disk filled)
  bad_usage = 2,  ///< the command line, the model, the input or the world cannot work; nothing was computed
  stopped = 75,   ///< asked to stop before the end, by a signal or --max-seconds: the same command goes on
                  ///< (EX_TEMPFAIL)
};

/// Where in the source an error was raised. clang 14 lacks std::source_location.
struct Where {
  const char* file;
  int line;
  static Where here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};

/// The one exception type. `what()` is a full sentence for the user: the thing, what was expected, what was
/// found, what to do.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message, ExitStatus status = ExitStatus::runtime_failure,
                 Where where = Where::here())
      : std::runtime_error(message), status_(status), where_(where) {}
  ExitStatus status() const { return status_; }
  Where where() const { return where_; }

 private:
  ExitStatus status_;
  Where where_;
};

/// The job as asked for cannot run: exit status 2.
class UsageError : public Error {
 public:
  explicit UsageError(const std::string& message, Where where = Where::here())
      : Error(message, ExitStatus::bad_usage, where) {}
};

/// An invariant of ours. Not for user input.
inline void ensure(bool holds, const char* what, Where where = Where::here()) {
  if (!holds) throw Error(std::string("internal error: ") + what, ExitStatus::runtime_failure, where);
}

}  // namespace penstock
