/* A picture of clips: one clip a row, its frames side by side, as PNG. */
#ifndef KIN_TOOLS_CONTACT_SHEET_H
#define KIN_TOOLS_CONTACT_SHEET_H

#include "runtime/tensor.h"

typedef struct kin_contact_sheet kin_contact_sheet;

kin_status kin_contact_sheet_create(kin_context *context, kin_contact_sheet **out_sheet);
void kin_contact_sheet_free(kin_contact_sheet *sheet);
/* Adds a clip (3, T, Y, X) in -1..1; all clips of a sheet have one size. The caption goes into the
 * picture's text. */
kin_status kin_contact_sheet_add(kin_contact_sheet *sheet, const kin_host_tensor *clip,
                                 const char *caption);
/* Writes the picture, each pixel doubled. */
kin_status kin_contact_sheet_write(const kin_contact_sheet *sheet, const char *path);

#endif
