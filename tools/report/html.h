/* Writing one HTML page: a buffer that grows, escaping, files as data URIs. */
#ifndef KIN_TOOLS_HTML_H
#define KIN_TOOLS_HTML_H

#include "runtime/context.h"

/* The first failure sticks; later calls do nothing. Freed by kin_html_free. */
typedef struct kin_html {
    kin_context *context;
    char *data;
    size_t used, room;
    kin_status status;
} kin_html;

void kin_html_free(kin_html *page);
/* As it is: for tags. No text from outside may come this way. */
void kin_html_raw(kin_html *page, const char *markup);
/* Numbers and the like, as printf; escaped too. */
void kin_html_format(kin_html *page, const char *format, ...) KIN_PRINTF(2, 3);
/* Text, fit for an element and for a quoted attribute: & < > " ' are escaped. Of text that is not
 * UTF-8 every byte beyond ASCII becomes '?'; so do control characters but tab and line feed. */
void kin_html_text(kin_html *page, const char *text);
/* "data:image/png;base64,..." */
void kin_html_data_uri(kin_html *page, const char *type, const void *data, size_t size);
/* <figure> with a PNG in it; the rows' captions, if kin_contact_sheet_write left them in the file,
 * are listed below. KIN_FORMAT if it is no PNG. */
void kin_html_image(kin_html *page, const char *path, const char *label);
/* <figure> with an MP4 that plays in a loop. The prompt in its comment is the caption, else the
 * file's name. KIN_FORMAT if it is no MP4. */
void kin_html_video(kin_html *page, const char *path);

#endif
