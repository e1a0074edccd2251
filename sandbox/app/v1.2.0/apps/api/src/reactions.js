'use strict';

const express = require('express');
const pool = require('./database');

const router = express.Router();

router.get('/reactions', async (request, response) => {
  const { rows } = await pool.query('SELECT id, post_id AS "postId", kind FROM reactions ORDER BY id DESC LIMIT 50');
  response.json({ reactions: rows });
});

router.post('/reactions', async (request, response) => {
  const { postId, kind } = request.body || {};
  if (!postId || !kind) {
    response.status(400).json({ error: 'postId and kind are required' });
    return;
  }
  const { rows } = await pool.query(
    'INSERT INTO reactions (post_id, kind) VALUES ($1, $2) RETURNING id, post_id AS "postId", kind',
    [postId, kind]
  );
  response.status(201).json(rows[0]);
});

module.exports = router;
