/* Pictures: decoding (PNG, JPEG, WebP, binary PPM), Pillow-exact resizing, CLIP preprocessing, PNG writing. */
#ifndef SL_INPUT_IMAGE_H
#define SL_INPUT_IMAGE_H

#include "base/json.h"

/* 8-bit RGB picture, rows top to bottom, 3 bytes a pixel, no padding. Release with sl_rgb_dispose. */
typedef struct sl_rgb {
  int width_px, height_px;
  uint8_t *data; /* [height, width, 3] */
} sl_rgb;

/* 8-bit one-channel picture (masks, maps). */
typedef struct sl_grey {
  int width_px, height_px;
  uint8_t *data; /* [height, width] */
} sl_grey;

/* Decodes a file by its content, not its name: PNG, JPEG, still WebP, binary PPM/PGM. As Pillow's
 * open(...).convert("RGB") does: alpha dropped (what transformers does with a path or URL; a Pillow picture handed to
 * its processor is put on white since version 5), palette expanded, 16-bit colour cut to the high byte, 16-bit grey
 * clipped at 255, CMYK/YCCK taken as inverted (Adobe), orientation of EXIF, or else of XMP, applied when
 * `apply_exif`. Limits: at most 64 MiB of file, 65535 px a side and 100 Mpx (a decompression bomb is an error naming
 * the size). A file cut anywhere, even after its last pixel, is an error. Thread-safe. `name` is what messages call the
 * picture. */
sl_status sl_rgb_load(sl_rgb *out, const char *path, bool apply_exif);
sl_status sl_rgb_decode(sl_rgb *out, const void *bytes, size_t n_bytes, const char *name, bool apply_exif);
void sl_rgb_dispose(sl_rgb *image);

/* A mask file (any decodable picture, turned upright): 255 where any channel is non-zero (object), else 0. */
sl_status sl_mask_load(sl_grey *out, const char *path);
void sl_grey_dispose(sl_grey *image);

/* Writes an 8-bit PNG with 1, 3 or 4 channels; whole or not at all. The second form gives the bytes (free()). */
sl_status sl_png_write(const char *path, const uint8_t *data, int width_px, int height_px, int n_channel);
sl_status sl_png_encode(const uint8_t *data, int width_px, int height_px, int n_channel, uint8_t **out,
                        size_t *n_bytes);

typedef enum sl_filter { SL_FILTER_NEAREST, SL_FILTER_BILINEAR, SL_FILTER_BICUBIC, SL_FILTER_LANCZOS } sl_filter;

/* Pillow 13.0's resize, bit-equal: separable, 8-bit rounded intermediate, antialiased, fixed-point weights with 22
 * fractional bits, a pass that does not change the size skipped. The horizontal pass comes first, except where rows
 * shrink by more than twice as many px as columns do; older Pillow keeps horizontal first there (tall pictures), and
 * differs by a few grey levels. */
sl_status sl_rgb_resize(sl_rgb *out, const sl_rgb *image, int width_px, int height_px, sl_filter filter);

/* How one picture becomes several views (tower inputs of one size); sl_views_make of input/views.h makes them. */
typedef enum sl_tiling {
  SL_TILING_NONE,    /* one view */
  SL_TILING_ANYRES,  /* LLaVA-NeXT: the whole picture squashed, then tiles of the best of `pinpoints`, on black */
  SL_TILING_INTERN,  /* InternVL: tiles of the grid nearest in aspect ratio, then a thumbnail where there are several */
  SL_TILING_SMART,   /* Qwen2-VL: one view whose sides are multiples of patch_px * merge, about as many px as found */
  SL_TILING_IDEFICS, /* Idefics3, SmolVLM: longest edge, up to multiples of a tile, tiles, then the whole squashed */
  SL_TILING_COUNT
} sl_tiling;

#define SL_MAX_PINPOINT 64
#define SL_MAX_TILE 1024 /* of one picture */

/* What an image processor does to one picture, read from preprocessor_config.json or from the `image_processor` object
 * of processor_config.json (the latter wins when both exist), with transformers' defaults for missing keys. */
typedef struct sl_preprocess {
  bool pad_to_square;       /* original LLaVA (mean colour), Shikra (white): pad with `pad_rgb` before resizing */
  uint8_t pad_rgb[3];
  bool do_resize, do_center_crop, do_rescale, do_normalize;
  int shortest_edge_px;     /* 0 when the exact size below is used */
  int resize_width_px, resize_height_px;
  int crop_width_px, crop_height_px;
  sl_filter filter;
  double rescale_factor;
  double mean[3], std[3];
  sl_tiling tiling;
  int tile_px;              /* side of every view (anyres, intern, idefics) */
  int n_pinpoint, pinpoints[SL_MAX_PINPOINT][2]; /* anyres: [height, width] in px, multiples of tile_px */
  int min_tiles, max_tiles; /* intern, without the thumbnail */
  bool thumbnail;           /* intern */
  int patch_px, merge;      /* smart */
  int min_px, max_px;       /* smart: area of the view */
  int longest_edge_px;      /* idefics; 0 when the exact size above is used */
  bool split;               /* idefics: into tiles; otherwise only the whole picture */
} sl_preprocess;

/* Fills from the model folder. Defaults are those of the class named in the file (CLIP, Llava, LlavaNext, Siglip, Blip,
 * GotOcr2 (which InternVL uses, always with tiles), Qwen2VL, Gemma3, Idefics3, SmolVLM; when none is named, LlavaNext's
 * where the file has image_grid_pinpoints and else Llava's; others fail); without a file, CLIP's at config.json's
 * vision_config.image_size. `image_aspect_ratio` in config.json (original layout) equal to "pad", or
 * LlavaImageProcessor's do_pad = true, sets pad_to_square; "anyres" sets SL_TILING_ANYRES with config.json's
 * image_grid_pinpoints, which are [width, height] there. Fails naming file and key for sizes that are zero, negative or
 * absurd (> 16384), unknown resampling codes, std = 0, pinpoints that are no multiples of the tile. On failure *out is
 * untouched. */
sl_status sl_preprocess_read(sl_preprocess *out, const char *model_dir);

/* The part of that which config.json says (image_aspect_ratio, image_grid_pinpoints), for a model whose processor was
 * read from another folder, that of its tower. On failure *preprocess is untouched. */
sl_status sl_preprocess_add_config(sl_preprocess *preprocess, json_t *config, const char *name);

/* Settings of models whose own code ignores processor files. Qwen-VL: sl_preprocess_squash(448, SL_NORM_CLIP); Shikra:
 * sl_preprocess_crop(224, SL_NORM_CLIP) with pad_to_square and a white pad_rgb. */
typedef enum sl_pixel_norm { SL_NORM_CLIP, SL_NORM_IMAGENET, SL_NORM_HALF } sl_pixel_norm; /* mean, std */
sl_preprocess sl_preprocess_squash(int side_px, sl_pixel_norm norm); /* to a square, distorted; bicubic */
sl_preprocess sl_preprocess_crop(int side_px, sl_pixel_norm norm);   /* shortest edge, then centre; bicubic */

/* InternVL's remote code: squashed tiles of force_image_size (or vision_config.image_size) px with ImageNet's mean, as
 * dynamic_image_size, min_dynamic_patch, max_dynamic_patch, use_thumbnail and pad2square of config.json say. */
sl_status sl_preprocess_dynamic(sl_preprocess *out, json_t *config, const char *name);

/* Size of every view, when it does not depend on the picture; else 0 x 0. */
void sl_preprocess_view_size(const sl_preprocess *preprocess, int *width_px, int *height_px);

/* How a pixel of the tensor maps to the source picture: source = tensor_px * scale + offset, per axis, in source px.
 * (Token boxes and overlays are drawn with it; boxes may lie partly outside when the picture was padded.) */
typedef struct sl_pixel_map {
  double scale_x, scale_y, offset_x, offset_y;
} sl_pixel_map;

/* One view (tilings other than SL_TILING_NONE fail: sl_views_make).
 * pixels: new float array [3, height, width] (free()), equal to the processor's PIL path; also the 8-bit picture the
 * model saw (before rescaling; sl_rgb_dispose) when `seen` is not NULL; `map` may be NULL. */
sl_status sl_preprocess_apply(const sl_preprocess *preprocess, const sl_rgb *image, float **pixels, int *width_px,
                              int *height_px, sl_rgb *seen, sl_pixel_map *map);

#endif
