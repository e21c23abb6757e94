/* Between the two halves of the writer of torch.save files. */
#ifndef KIN_RUNTIME_PICKLE_WRITE_INTERNAL_H
#define KIN_RUNTIME_PICKLE_WRITE_INTERNAL_H

#include "runtime/file.h"

/* Writes the archive: the pickle, one record for each tensor, and the version. */
kin_status kin_pickle_write_zip(kin_context *context, const char *path, const void *pickle,
                                size_t pickle_size, const kin_named_tensor *tensors, size_t count,
                                kin_fill_piece fill, void *fill_user);

#endif
