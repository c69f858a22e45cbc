#include "stages/parts.h"

namespace penstock {

Embedding::Embedding(const BuildContext& context)
    : ops_(context.ops),
      table_VD_(load_table(context, {"model.embed_tokens.weight", context.config.vocab_size},
                           context.config.hidden_size)) {}

}  // namespace penstock
