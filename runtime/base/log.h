// One message on standard error: "12:03:04 rank 2 host: text", or as JSON one object a line. Any thread may
// call. Rank and host are set once at start; before that they are left out.
#pragma once

#include <string>
#include <string_view>

namespace penstock::log {

enum class Level { debug, info, warning, error };
enum class Format { text, json };

void set_identity(int rank, const std::string& host);
/// Messages below `level` are dropped. Before the first message of another thread.
void configure(Level level, Format format);
/// Whether messages are JSON: then nothing else may be printed among them.
bool is_json();

void write(Level level, std::string_view text);
inline void debug(std::string_view text) {
  write(Level::debug, text);
}
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
