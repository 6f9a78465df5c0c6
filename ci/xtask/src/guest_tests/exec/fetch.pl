# Shows what an HTTP server says: `fetch.pl ADDRESS PORT`.
use IO::Socket::INET;
my ($address, $port) = @ARGV;
my $server = IO::Socket::INET->new(PeerAddr => $address, PeerPort => $port, Timeout => 60)
    or die "cannot connect: $@";
print $server "GET / HTTP/1.0\r\n\r\n";
while (<$server>) { last if /^\r?\n/ }
print while <$server>;
