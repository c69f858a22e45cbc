#include "runtime/requests/journal/file_facts.h"

#include <fcntl.h>
#include <unistd.h>
#include <xxhash.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <new>

#include "runtime/base/error.h"
#include "runtime/requests/journal/durable_file.h"

namespace penstock {

struct Digest::State {
  XXH3_state_t* xxh = XXH3_createState();
  State() {
    if (xxh == nullptr) throw std::bad_alloc();
    XXH3_128bits_reset(xxh);
  }
  ~State() { XXH3_freeState(xxh); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
};

Digest::Digest() : state_(std::make_unique<State>()) {}
Digest::~Digest() = default;

void Digest::add(std::string_view bytes) {
  XXH3_128bits_update(state_->xxh, bytes.data(), bytes.size());
}

std::string Digest::text() const {
  const XXH128_hash_t hash = XXH3_128bits_digest(state_->xxh);
  char hex[33];
  std::snprintf(hex, sizeof hex, "%016llx%016llx", static_cast<unsigned long long>(hash.high64),
                static_cast<unsigned long long>(hash.low64));
  return hex;
}

FileFacts facts_of_file(const std::filesystem::path& path) {
  const FileHandle file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.is_open()) throw UsageError(path.string() + ": cannot be opened: " + std::strerror(errno));
  FileFacts facts;
  Digest digest;
  std::string piece(size_t{1} << 20, '\0');
  for (;;) {
    const ssize_t n = read(file.get(), piece.data(), piece.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw Error(path.string() + ": reading failed: " + std::strerror(errno));
    if (n == 0) break;
    const std::string_view got(piece.data(), static_cast<size_t>(n));
    digest.add(got);
    facts.bytes += got.size();
  }
  facts.digest = digest.text();
  return facts;
}

}  // namespace penstock
