"""limbeck distils anything into something smaller, faster or safer, and proves that it worked."""
