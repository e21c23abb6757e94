/* Bicubic resizing of 8-bit pictures, as Pillow does it. */
#ifndef KIN_TOOLS_PICTURE_RESIZE_H
#define KIN_TOOLS_PICTURE_RESIZE_H

#include "runtime/context.h"

/* Resizes interleaved RGB, height * width * 3 bytes, to new_height * new_width * 3 bytes at
 * out_pixels. The filter is Keys' cubic convolution with a = -0.5 (IEEE ASSP 29(6), 1981),
 * stretched by the factor where a side shrinks, so that no pixel is left out; rows first, then
 * columns, each rounded to bytes, with weights of 22 bits: the bytes are Pillow's Image.resize(...,
 * BICUBIC). */
kin_status kin_picture_resize(kin_context *context, const uint8_t *pixels, int height, int width,
                              int new_height, int new_width, uint8_t *out_pixels);

#endif
