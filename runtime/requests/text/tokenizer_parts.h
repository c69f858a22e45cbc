// What a Tokenizer is made of; for its own source files.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "runtime/requests/text/added_tokens.h"
#include "runtime/requests/text/bpe.h"
#include "runtime/requests/text/decoder.h"
#include "runtime/requests/text/normalizer.h"
#include "runtime/requests/text/post_processor.h"
#include "runtime/requests/text/pre_tokenizer.h"
#include "runtime/requests/text/tokenizer.h"

namespace penstock {

/// Workspaces at rest. As many exist as calls were ever in progress at once.
class WorkspacePool {
 public:
  class Lease {
   public:
    explicit Lease(WorkspacePool& pool) : pool_(pool), workspace_(pool.take()) {}
    ~Lease() { pool_.give_back(std::move(workspace_)); }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    Bpe::Workspace& operator*() { return *workspace_; }

   private:
    WorkspacePool& pool_;
    std::unique_ptr<Bpe::Workspace> workspace_;
  };

 private:
  std::unique_ptr<Bpe::Workspace> take();
  void give_back(std::unique_ptr<Bpe::Workspace> workspace);
  std::mutex mutex_;
  std::vector<std::unique_ptr<Bpe::Workspace>> free_;
};

struct Tokenizer::Parts {
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  Bpe model;
  AddedTokens added;
  PostProcessor post_processor;
  Decoder decoder;
  SpecialTokens special_tokens;
  mutable WorkspacePool workspaces;

  /// The token's spelling for a decoder; nullptr for an id without a token.
  const std::string* spelling_of(uint32_t id) const {
    const std::string* added_token = added.spelling_of(id);
    return added_token != nullptr ? added_token : model.vocabulary().token_of(id);
  }
};

}  // namespace penstock
