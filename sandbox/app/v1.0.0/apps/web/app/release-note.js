'use client';

import { useState } from 'react';
import { release } from '../release.mjs';

// A page that stays open asks for the details' chunk long after it was loaded, from whatever serves by then.
export default function ReleaseNote() {
  const [Details, setDetails] = useState(null);
  const open = async () => {
    const loaded = await import('./release-details');
    setDetails(() => loaded.default);
  };
  return Details ? <Details /> : <button onClick={open}>What is new in {release}</button>;
}
