/* The cleaning of captions that text-to-video models were trained with (DeepFloyd IF's, taken over
 * by PixArt, Open-Sora, Latte and Open-Sora-Plan): addresses, tags, codes and odd punctuation are
 * taken out, case is lowered. Prompts must pass it too, or the text encoder sees other words. */
#ifndef KIN_TOOLS_CAPTION_CLEAN_H
#define KIN_TOOLS_CAPTION_CLEAN_H

#include "runtime/context.h"

/* Cleans a caption of `size` bytes of UTF-8 (other bytes count as U+FFFD), twice over, as the
 * originals do. keep_chinese leaves the common Chinese characters in (Open-Sora-Plan 1.2). The
 * caller frees *out_text with kin_free. KIN_INVALID for texts above 64 KiB.
 *
 * Of ftfy's repairs, which the originals also apply, only those of full-width forms, ligatures,
 * line ends and control characters are done: text that was decoded wrongly before stays so, and
 * accents that follow their letter are not joined with it. */
kin_status kin_caption_clean(kin_context *context, const char *text, size_t size, bool keep_chinese,
                             char **out_text);
/* What the pipelines do without cleaning: lower case, without space at the ends. */
kin_status kin_caption_lower(kin_context *context, const char *text, size_t size, char **out_text);

#endif
