// Which characters the parts of Hugging Face's tokenizers (0.23) know: its Oniguruma those of Unicode 16, its
// normal forms those of Unicode 9, its punctuation that of Unicode 8. With these tables the same text gives
// the same tokens on every machine, whatever version of Unicode its libraries have.
#pragma once

#include <string>

#include "runtime/requests/text/regex.h"

namespace penstock {

/// Gives Oniguruma's names for general categories, and Han, the characters that Unicode 15 to 16 brought. To
/// be called once, right after Oniguruma is initialized, before any pattern is compiled. `meaning_of` tells
/// what the library itself takes a name for.
void teach_oniguruma_unicode_16(CodePointRanges (*meaning_of)(const std::string& name));

/// Characters with a decomposition or a combining class that came after Unicode 9.
CodePointRanges normal_forms_since_unicode_9();

/// What the Punctuation pre-tokenizer splits at.
CodePointRanges punctuation_of_unicode_8();

}  // namespace penstock
