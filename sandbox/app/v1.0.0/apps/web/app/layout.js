import './globals.css';

export const metadata = { title: 'ConnectIn' };

export default function Layout({ children }) {
  return (
    <html lang="en">
      <body>{children}</body>
    </html>
  );
}
