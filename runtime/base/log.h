// One line a message on standard error, "12:03:04 rank 2 host: text". Any thread may call. Rank and host are
// set once at start; before that they are left out.
#pragma once

#include <string>
#include <string_view>

namespace penstock::log {

enum class Level { info, warning, error };

void set_identity(int rank, const std::string& host);
void write(Level level, std::string_view text);
inline void info(std::string_view text) {
  write(Level::info, text);
}
inline void warning(std::string_view text) {
  write(Level::warning, text);
}
inline void error(std::string_view text) {
  write(Level::error, text);
}

}  // namespace penstock::log
