import { release } from '../release.mjs';
import ReleaseNote from './release-note';

export const dynamic = 'force-dynamic';

async function readPosts() {
  try {
    const response = await fetch(`${process.env.API_URL || 'http://127.0.0.1:5007'}/posts`, {
      cache: 'no-store',
      signal: AbortSignal.timeout(3000),
    });
    if (!response.ok) throw new Error(`the API answered ${response.status}`);
    return { posts: (await response.json()).posts };
  } catch (error) {
    return { error: error.message };
  }
}

export default async function Page() {
  const { posts, error } = await readPosts();
  return (
    <main data-release={release}>
      <h1>ConnectIn</h1>
      {error ? (
        <p data-error="posts">Posts cannot be shown right now: {error}</p>
      ) : (
        <ul data-posts={posts.length}>
          {posts.map((post) => (
            <li key={post.id}>
              <strong>{post.title}</strong> {post.body || post.content}
            </li>
          ))}
        </ul>
      )}
      <ReleaseNote />
      <footer>{release}</footer>
    </main>
  );
}
