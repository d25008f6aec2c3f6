// Made by tools/teach_it/learners.py.
window.Teach ??= {};
Teach.learners = [
  {
    "name": "glyphs_5way_1shot",
    "title": "Gray, large",
    "channels": 1,
    "size": 28,
    "pictures": "glyphs",
    "does": "two gradient steps",
    "bytes": 145169,
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
