"""From a signed feature-resolution map to what people look at. NumPy and Pillow, nothing else.

resample     separable N-D resizing: nearest, linear, bicubic (samples: along one axis)
sampler      carries a map over to another grid
conventions  ReLU, up-sampling, fusion and normalisation as each library does them
geometry     upload to model input and back: EXIF orientation, resize, crop, padding
grids        the same for arrays, whose order of dimensions is the client's
areas        how much of each cell of the model's input a region of the upload covers
sketches     what is kept of an array to draw it by
canvases     arrays as curves, rasters and slices (canvas, timelines, planes, cuts, captions)
scaling      maps to [0, 1] for pictures
colormaps    numbers to colours
overlay      colours or contour lines over the photograph, or the drawing of an array
sheet        several pictures as one
encode       PNG, JPEG, WebP and .npy bytes
"""
