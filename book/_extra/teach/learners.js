// Made by tools/teach_it/learners.py.
window.Teach ??= {};
Teach.learners = [
  {
    "name": "emoji_5way_1shot",
    "title": "Color, large",
    "channels": 3,
    "size": 32,
    "pictures": "emoji",
    "does": "two gradient steps",
    "bytes": 510011,
    "right": 0.8775,
    "half_width": 0.008,
    "tasks": 600,
    "sha256": "a8a9e8e56e5cca000ff3060abff71f4dc43015a1a219833cd0d07c389c36eb0a"
  },
  {
    "name": "emoji_5way_1shot_small",
    "title": "Color, small",
    "channels": 3,
    "size": 32,
    "pictures": "emoji",
    "does": "two gradient steps",
    "bytes": 59045,
    "right": 0.8077,
    "half_width": 0.0091,
    "tasks": 600,
    "sha256": "d307933b5399200000e2ccfc68f834179952479886e6fabf474820454c26930a"
  },
  {
    "name": "emoji_protonet",
    "title": "Color, prototypes",
    "channels": 3,
    "size": 32,
    "pictures": "emoji",
    "does": "five averages, no gradient",
    "bytes": 457855,
    "right": 0.8661,
    "half_width": 0.0081,
    "tasks": 600,
    "sha256": "3613e9e0d4c5d930b2282916a5459bd2efc236100076f57cdec1e3ea3cb32fb8"
  },
  {
    "name": "glyphs_5way_1shot",
    "title": "Gray, large",
    "channels": 1,
    "size": 28,
    "pictures": "glyphs",
    "does": "two gradient steps",
    "bytes": 145161,
    "right": 0.976,
    "half_width": 0.0034,
    "tasks": 600,
    "sha256": "d31a9548a691bfab3193362fc4ec4ebd255037c8ac6f32b20984d1679edb7395"
  },
  {
    "name": "glyphs_5way_1shot_small",
    "title": "Gray, small",
    "channels": 1,
    "size": 28,
    "pictures": "glyphs",
    "does": "two gradient steps",
    "bytes": 38524,
    "right": 0.811,
    "half_width": 0.0085,
    "tasks": 600,
    "sha256": "60b8a110a4f96e1aa5cf7d4d134259bcd93e885cbf62e52fbb6711ef563a8678"
  }
];
